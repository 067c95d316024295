"""Images and masks: reading any mode, resizing, stacking into tensors."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from autopatch.data.mvtec import Sample
from autopatch.errors import InputError, one_line

EVALUATION_SIZE = 224
"""Side, in pixels, of the masks that all candidates are scored against by default."""

_MAX_THREADS = 8
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_image(path: Path) -> Image.Image:
    """Reads an image of any mode as RGB.

    The EXIF orientation is applied, alpha is dropped (colors are not blended with a background),
    the first frame of several is taken. 16-bit grey values are divided by 257, so that 0..65535
    becomes 0..255 whatever range the image uses.

    Raises:
        InputError: The file cannot be decoded to its end, or holds floats or values outside
            16 bits.
    """
    image = _decode(path)
    if image.mode in _SIXTEEN_BIT_MODES:
        values = _integers(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise InputError(f"{path}: values {low} to {high}, expected 0 to 65535")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    return _to_rgb(image)


def read_mask(path: Path) -> Image.Image:
    """Reads a mask as grey values 0 (normal) and 255 (anomalous).

    A mask is black, and one other value or color where the image is anomalous.

    Raises:
        InputError: The file cannot be decoded to its end, has more than one value besides 0, two
            values neither of which is 0, or no anomalous pixel.
    """
    image = _decode(path)
    if image.mode in _SIXTEEN_BIT_MODES:
        values = _integers(image)
    elif image.mode in ("1", "L"):
        values = _integers(image.convert("L"))
    else:
        red, green, blue = np.moveaxis(_integers(_to_rgb(image)), -1, 0)
        values = (red << 16) | (green << 8) | blue
    anomalous = values != 0
    if not anomalous.any():
        raise InputError(f"{path}: no anomalous pixel in the mask, expected at least one")
    if (values[anomalous] != values.max()).any():
        count = len(np.unique(values))
        raise InputError(
            f"{path}: the mask is not binary, {count} different values found, "
            "expected 0 and one other"
        )
    return Image.fromarray(anomalous.astype(np.uint8) * np.uint8(255))


def load_images(paths: Sequence[Path], image_size: int) -> torch.Tensor:
    """Reads images and resizes each to a square (PIL bilinear, the aspect is not kept).

    Args:
        paths: N image files.
        image_size: S, in pixels.

    Returns:
        uint8 `[N, 3, S, S]`, RGB, 0..255.

    Raises:
        InputError: See `read_image`.
    """
    _require_size("image_size", image_size)

    def load(path: Path) -> npt.NDArray[np.uint8]:
        return np.asarray(_resize(read_image(path), image_size))

    images = torch.empty((len(paths), 3, image_size, image_size), dtype=torch.uint8)
    for index, pixels in enumerate(in_threads(load, paths)):
        # np.array: PIL's buffer is read-only, which torch warns about.
        images[index] = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    return images


def load_masks(samples: Sequence[Sample], size: int = EVALUATION_SIZE) -> torch.Tensor:
    """Reads the masks of N samples at one size; a good sample's mask is all False.

    A mask is resized as grey values 0 and 255 (PIL bilinear), and every pixel above 0 is
    anomalous: the rule of the published AutoPatch code, which widens regions by up to a pixel.

    Args:
        samples: N samples, good or anomalous.
        size: S, in pixels.

    Returns:
        bool `[N, S, S]`.

    Raises:
        InputError: See `read_mask`; or no anomalous pixel is left at this size.
    """
    _require_size("size", size)

    def load(sample: Sample) -> npt.NDArray[np.bool_] | None:
        return None if sample.mask is None else resize_mask(read_mask(sample.mask), size, sample)

    masks = torch.zeros((len(samples), size, size), dtype=torch.bool)
    for index, mask in enumerate(in_threads(load, samples)):
        if mask is not None:
            masks[index] = torch.from_numpy(mask)
    return masks


def resize_mask(mask: Image.Image, size: int, sample: Sample) -> npt.NDArray[np.bool_]:
    """Resizes what `read_mask` gave for `sample` to bool `[size, size]`, see `load_masks`."""
    anomalous = np.asarray(_resize(mask, size)) > 0
    if not anomalous.any():
        raise InputError(
            f"{sample.mask}: the anomalous pixels of the mask vanish at {size} x {size}, "
            "expected a larger evaluation size"
        )
    return anomalous


def in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Maps in order over a small thread pool; decoding and resizing release the GIL."""
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            decoded = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an image") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image in a format that can be read") from None
    except (
        EOFError,
        OSError,
        SyntaxError,  # what Pillow raises for a broken PNG
        ValueError,
        Image.DecompressionBombError,
        struct.error,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: unreadable or truncated image ({one_line(error)})") from None
    if decoded.mode not in _EIGHT_BIT_MODES | _SIXTEEN_BIT_MODES:
        kind = "floating point values" if decoded.mode == "F" else f"mode {decoded.mode}"
        raise InputError(f"{path}: {kind}, expected 8-bit or 16-bit integer values")
    return decoded


def _to_rgb(image: Image.Image) -> Image.Image:
    # Without this entry Pillow neither warns about nor translates a transparent color.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _integers(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def _resize(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _require_size(name: str, size: int) -> None:
    if size < 1:
        raise InputError(f"{name}: {size}, expected at least 1")
