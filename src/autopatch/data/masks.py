"""Masks: reads the anomalous pixels of a file, and resizes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from autopatch.data.decoding import Decoded, decode
from autopatch.data.reading import DEFAULT_READING, Reading
from autopatch.data.samples import Sample
from autopatch.data.threads import in_threads
from autopatch.errors import InputError
from autopatch.files import StrPath

EVALUATION_SIZE = 224
"""Default side, in pixels, of the masks that all candidates are scored against."""

_CONNECTED = np.ones((3, 3), bool)  # regions are 8-connected, as in the metric


def read_mask(path: StrPath, reading: Reading = DEFAULT_READING) -> Image.Image:
    """Reads a mask as gray values 0 (normal) and 255 (anomalous).

    Without a threshold, normal pixels are black and all anomalous pixels have one other value or
    color. With a threshold, a pixel is anomalous if any of its channels is above it. If alpha
    varies and the color does not, alpha is the mask.

    Args:
        path: The file.
        reading: Mask threshold and treatment of the EXIF orientation.

    Raises:
        InputError: The file cannot be decoded completely; without a threshold, it has more than one
            value other than 0; it has no anomalous pixel; or color and alpha are different masks.
    """
    return decoded_mask(decode(path, path, reading.exif), path, reading)


def to_mask(
    mask: StrPath | Image.Image | npt.NDArray[Any] | torch.Tensor,
    *,
    name: str = "mask",
    reading: Reading = DEFAULT_READING,
) -> Image.Image:
    """A mask of any kind as gray values 0 and 255, by the rules of `read_mask`.

    Args:
        mask: A file, a PIL image, or an array or tensor `[H, W]` of bools or integers.
        name: Name of a mask in memory, for messages.
        reading: See `read_mask`.

    Raises:
        InputError: The mask is none of these, or see `read_mask`.
    """
    if isinstance(mask, str | os.PathLike | Image.Image):
        if not isinstance(mask, Image.Image):
            name = os.fspath(mask)
        return decoded_mask(decode(mask, name, reading.exif), name, reading)
    values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise InputError(
            f"{name} has shape {list(values.shape)} and dtype {values.dtype}, expected [H, W] of "
            "bools or integers"
        )
    anomalous = _anomalous(values.astype(np.int32)[..., None], name, reading)
    return _as_image(anomalous, name, reading)


def decoded_mask(decoded: Decoded, path: StrPath, reading: Reading) -> Image.Image:
    """The mask in a decoded file, as `read_mask` returns it."""
    color, alpha = _channels(decoded)
    if alpha is None or _is_constant(alpha):
        anomalous = _anomalous(color, path, reading)
    elif all(_is_constant(channel) for channel in np.moveaxis(color, -1, 0)):
        anomalous = _anomalous(alpha, path, reading)
    else:
        anomalous = _agreed(color, alpha, path, reading)
    return _as_image(anomalous, path, reading)


def _as_image(anomalous: npt.NDArray[np.bool_], path: StrPath, reading: Reading) -> Image.Image:
    if not anomalous.any():
        where = "" if reading.mask_threshold is None else f" above {reading.mask_threshold}"
        raise InputError(f"{path}: no anomalous pixel{where} in the mask, expected at least one")
    return Image.fromarray(anomalous.astype(np.uint8) * np.uint8(255))


def _channels(decoded: Decoded) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]:
    """Color `[H, W, C]` and alpha `[H, W, 1]` of a mask."""
    if not isinstance(decoded.pixels, Image.Image):
        return decoded.pixels, None if decoded.alpha is None else decoded.alpha[..., None]
    rgba = decoded.rgba()
    if rgba is not None:
        both = np.asarray(rgba).astype(np.int32)
        return both[..., :3], both[..., 3:]
    if decoded.pixels.mode in ("1", "L"):
        return np.asarray(decoded.pixels.convert("L")).astype(np.int32)[..., None], None
    return np.asarray(decoded.rgb()).astype(np.int32), None


def _is_constant(values: npt.NDArray[np.int32]) -> bool:
    return bool((values == values.flat[0]).all())


def _anomalous(
    channels: npt.NDArray[np.int32], path: StrPath, reading: Reading
) -> npt.NDArray[np.bool_]:
    """The anomalous pixels `[H, W]` of one or more channels `[H, W, C]`."""
    if reading.mask_threshold is not None:
        above: npt.NDArray[np.bool_] = channels.max(axis=2) > reading.mask_threshold
        return above
    values = np.zeros(channels.shape[:2], np.int64)
    for channel in np.moveaxis(channels, -1, 0):
        values = (values << 16) | channel
    anomalous: npt.NDArray[np.bool_] = values != 0
    if anomalous.any() and (values[anomalous] != values.max()).any():
        raise InputError(
            f"{path}: the mask is not binary, {len(np.unique(values))} different values found, "
            "expected 0 and one other; `mask_threshold` 127 takes values above 127 as anomalous"
        )
    return anomalous


def _agreed(
    color: npt.NDArray[np.int32],
    alpha: npt.NDArray[np.int32],
    path: StrPath,
    reading: Reading,
) -> npt.NDArray[np.bool_]:
    """The anomalous pixels, if color and alpha agree on them."""
    threshold = reading.mask_threshold or 0
    if ((color.max(axis=2) > threshold) != (alpha.max(axis=2) > threshold)).any():
        raise InputError(
            f"{path}: color and alpha of the mask both vary and are not the same mask, expected "
            "the mask in one of them"
        )
    _anomalous(alpha, path, reading)  # refuses a mask that is not binary
    return _anomalous(color, path, reading)


def load_masks(
    samples: Sample | Sequence[Sample],
    size: int = EVALUATION_SIZE,
    reading: Reading = DEFAULT_READING,
) -> torch.Tensor:
    """Reads the masks of N samples and resizes them as `resize_mask` does.

    The mask of a good sample is all False.

    Args:
        samples: N samples, good or anomalous, or a single one.
        size: S, in pixels.
        reading: How masks are read and resized.

    Returns:
        bool `[N, S, S]`.

    Raises:
        InputError: See `read_mask`; or no anomalous pixel is left at this size.
    """
    if size < 1:
        raise InputError(f"`size` is {size}, expected at least 1")
    listed = [samples] if isinstance(samples, Sample) else list(samples)

    def load(sample: Sample) -> npt.NDArray[np.bool_] | None:
        if sample.mask is None:
            return None
        return resize_mask(read_mask(sample.mask, reading), size, sample, reading)

    masks = torch.zeros((len(listed), size, size), dtype=torch.bool, device="cpu")
    for index, mask in enumerate(in_threads(load, listed)):
        if mask is not None:
            masks[index] = torch.from_numpy(mask)
    return masks


def resize_mask(
    mask: Image.Image, size: int, sample: Sample, reading: Reading = DEFAULT_READING
) -> npt.NDArray[np.bool_]:
    """Resizes a mask that `read_mask` returned.

    Rule "area": each 8-connected region keeps the pixels that it covers most, at least one. The
    minimum coverage is chosen so that the area of the region changes least; it is lowered until the
    region stays connected. A region smaller than a pixel grows to one, so a mask of many specks can
    become several times as large. Rule "any": the mask is resized as gray values 0 and 255 (PIL
    bilinear), and every pixel above 0 is anomalous, which widens regions by up to a pixel.

    Args:
        mask: The mask, gray values 0 and 255.
        size: S, in pixels.
        sample: The sample of the mask, for the message.
        reading: Its `mask_resize` is the rule.

    Returns:
        bool `[S, S]`.

    Raises:
        InputError: No anomalous pixel is left at this size by the rule "any".
    """
    if reading.mask_resize == "area":
        return _keep_area(np.asarray(mask) > 0, size)
    resized = mask.resize((size, size), Image.Resampling.BILINEAR)
    anomalous = np.asarray(resized) > 0
    if not anomalous.any():
        raise InputError(
            f"{sample.mask}: the anomalous pixels of the mask vanish at {size} x {size}, "
            "expected a larger evaluation size"
        )
    return anomalous


def _keep_area(mask: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.bool_]:
    """The rule "area" of `resize_mask`."""
    if mask.shape == (size, size):
        return mask
    kept = np.zeros((size, size), bool)
    labels, _ = ndimage.label(mask, _CONNECTED)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = (
            _reached(part, length, size) for part, length in zip(place, mask.shape, strict=True)
        )
        if rows.stop - rows.start == columns.stop - columns.start == 1:
            kept[rows, columns] = True
            continue
        region = (labels[place] == number).astype(np.float32)
        _, _, coverage = _coverage(region, place, mask.shape, (size, size))
        kept[rows, columns] |= _best_covered(coverage)
    return kept


def _coverage(
    region: npt.NDArray[np.float32],
    place: tuple[slice, slice],
    shape: tuple[int, ...],
    new: tuple[int, int],
) -> tuple[slice, slice, npt.NDArray[np.float32]]:
    """How much a region covers of each new pixel when its mask is resized.

    Args:
        region: The region, 0 and 1.
        place: Its place in the mask.
        shape: Height and width of the mask.
        new: Height and width after resizing.

    Returns:
        The rows and columns of new pixels that it may reach, and their coverage, 0 to 1.
    """
    rows, columns = (_reached(part, n, m) for part, n, m in zip(place, shape, new, strict=True))
    coverage = _overlaps(rows, place[0], new[0] / shape[0]) @ region
    return rows, columns, coverage @ _overlaps(columns, place[1], new[1] / shape[1]).T


def _reached(part: slice, length: int, size: int) -> slice:
    """The new pixels that part of a side overlaps when the side is resized from `length`."""
    return slice(part.start * size // length, -(-part.stop * size // length))


def _overlaps(new: slice, part: slice, scale: float) -> npt.NDArray[np.float32]:
    """Share of each new pixel of a side that each old pixel covers, `[new, old]`.

    Args:
        new: The new pixels.
        part: The old pixels.
        scale: New length of the side divided by the old.
    """
    first = np.arange(new.start, new.stop)[:, None]
    edges = np.arange(part.start, part.stop + 1)[None] * scale
    ends = np.clip(edges, first, first + 1)
    return np.diff(ends, axis=1).astype(np.float32)


def _best_covered(coverage: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """The pixels that a region covers most, connected: about as many as its area."""
    # In steps of 1/1024, so that shares that differ only by rounding are equal.
    steps = np.maximum(np.rint(coverage * 1024).astype(np.int32), coverage > 0)
    area = float(coverage.sum())
    most: npt.NDArray[np.bool_] = steps == steps.max()
    if area <= 1 and np.count_nonzero(most) == 1:  # a speck; this is faster
        return most
    levels, counts = np.unique(steps[steps > 0], return_counts=True)
    levels, counts = levels[::-1], counts[::-1].cumsum()
    nearest = int(np.abs(counts - area).argmin())
    for least in levels[nearest:]:
        chosen: npt.NDArray[np.bool_] = steps >= least
        if ndimage.label(chosen, _CONNECTED)[1] == 1:
            break
    return chosen


@dataclass(frozen=True)
class Cells:
    """The good and the anomalous cells of a grid that is laid over an image.

    Attributes:
        good: Cells that are at least three cells away from every anomalous pixel, bool `[H, W]`.
        anomalous: Cells of which at least half is anomalous, bool `[H, W]`. A region that covers no
            cell by half has its most covered cells.
    """

    good: npt.NDArray[np.bool_]
    anomalous: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, mask: Image.Image | None, height: int, width: int) -> Cells:
        """The cells of a mask.

        Args:
            mask: The mask, gray values 0 and 255, of any size; None if no pixel is anomalous.
            height: H, the number of rows of cells.
            width: W, the number of cells in a row.
        """
        anomalous = np.zeros((height, width), bool)
        if mask is None:
            return cls(~anomalous, anomalous)
        pixels = np.asarray(mask) > 0
        touched = anomalous.copy()
        labels, _ = ndimage.label(pixels, _CONNECTED)
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            region = (labels[place] == number).astype(np.float32)
            rows, columns, coverage = _coverage(region, place, pixels.shape, (height, width))
            touched[rows, columns] |= coverage > 0
            anomalous[rows, columns] |= coverage >= min(0.5, coverage.max())
        near = ndimage.binary_dilation(touched, np.ones((5, 5), bool))
        return cls(~near, anomalous)
