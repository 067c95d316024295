"""Reading: settings that turn image files into pixels, and conversion of any image to RGB."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from autopatch.data.decoding import EXIF, Decoded, decode, is_deep
from autopatch.data.threads import in_threads
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.genes import is_integer
from autopatch.words import by_count, counted, first_names

ImageInput: TypeAlias = StrPath | Image.Image | npt.NDArray[Any] | torch.Tensor
"""An image: a file, a PIL image, an array `[H, W]` or `[H, W, C]`, a tensor `[C, H, W]`."""

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Allowed bit depths of images with 16 bits per channel."""

MASK_RESIZES = ("area", "any")
"""Rules for resizing masks, see `Reading`."""

FEW_LEVELS = 32
"""A warning is given if images use fewer gray levels."""

_USUALLY_ENOUGH = 8  # so many images nearly always use more gray levels

_EXPECTED = (
    "expected a file, a PIL image, an array [H, W] or [H, W, C] or a tensor [C, H, W], of uint8, "
    "uint16 or floats in [0, 1]"
)


@dataclass(frozen=True)
class Reading:
    """Settings for all image and mask files of a data set: how they become pixels.

    Attributes:
        bit_depth: Bits used in images with 16 bits per channel: 8, 10, 12, 14 or 16. Values from 0
            to 2**bit_depth - 1 are scaled to 0 to 255, larger values become 255. None if not
            decided yet, see `decide`; images are then read as with 16. Images with 8 bits per
            channel are not scaled.
        exif: "apply" turns images and masks by their EXIF orientation, "ignore" leaves them as
            stored.
        mask_threshold: Pixels of a mask above this value are anomalous, 0 to 65534; None for masks
            of black and one other value.
        mask_resize: "area": each region of a mask keeps about its area when the mask is resized;
            "any": a pixel is anomalous if any part of it is, as in the published code.

    Raises:
        InputError: A value is not allowed.
    """

    bit_depth: int | None = None
    exif: str = "apply"
    mask_threshold: int | None = None
    mask_resize: str = "area"

    def __post_init__(self) -> None:
        if self.bit_depth is not None and not (
            is_integer(self.bit_depth) and self.bit_depth in BIT_DEPTHS
        ):
            raise InputError(
                f"`bit_depth` is {self.bit_depth!r}, expected one of "
                f"{', '.join(map(str, BIT_DEPTHS))}"
            )
        if self.exif not in EXIF:
            raise InputError(f"`exif` is {self.exif!r}, expected {' or '.join(EXIF)}")
        if self.mask_threshold is not None and not (
            is_integer(self.mask_threshold) and 0 <= self.mask_threshold < 65535
        ):
            raise InputError(f"`mask_threshold` is {self.mask_threshold!r}, expected 0 to 65534")
        if self.mask_resize not in MASK_RESIZES:
            raise InputError(
                f"`mask_resize` is {self.mask_resize!r}, expected {' or '.join(MASK_RESIZES)}"
            )

    @property
    def highest(self) -> int:
        """The largest value that is not clipped in an image with 16 bits per channel."""
        return int(2 ** (self.bit_depth or 16)) - 1

    def scaled(self, values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """Scales values of an image with 16 bits per channel to 0 to 255, rounded."""
        clipped = np.minimum(values, self.highest).astype(np.int32)
        rounded = (clipped * 255 + self.highest // 2) // self.highest
        return np.asarray(rounded, np.uint8)

    def decided(self, seen: Iterable[Seen]) -> Reading:
        """This reading with a bit depth: its own, or the smallest that holds all values of images.

        Args:
            seen: The images that the memory bank is fitted on.
        """
        if self.bit_depth is not None:
            return self
        return replace(self, bit_depth=_bits(max((each.highest for each in seen), default=0)))

    def describe_images(self) -> str:
        """The settings that affect images, such as "`bit_depth` 12 and `exif` apply"."""
        return f"`bit_depth` {self.bit_depth} and `exif` {self.exif}"

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reading:
        """Reads the document of `to_json`.

        Raises:
            InputError: The value of a field is not allowed.
            TypeError: A field is unknown.
        """
        return cls(**document)


DEFAULT_READING = Reading()
"""Bit depth undecided, EXIF orientation applied, masks of black and one other value."""


@dataclass(frozen=True)
class Seen:
    """Facts about an image that matter for the choice of a `Reading`.

    Attributes:
        name: The file, or the name of an image in memory.
        size: Width and height in pixels, as the image is read.
        highest: The largest value of an image with 16 bits per channel; 0 for any other.
        used: Whether each value occurs, bool `[256]` or `[65536]`, packed to bits.
        alpha_varies: Whether the image has an alpha channel with more than one value.
        orientation: EXIF orientation, 1 to 8.
    """

    name: str
    size: tuple[int, int]
    highest: int = 0
    used: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)
    alpha_varies: bool = False
    orientation: int = 1

    @classmethod
    def of(cls, name: str, decoded: Decoded) -> Seen:
        """The facts about a decoded image."""
        highest = 0
        if isinstance(decoded.pixels, Image.Image):
            counts = np.array(decoded.rgb().histogram()).reshape(3, 256)
            used = counts.any(axis=0)
        else:
            used = np.bincount(decoded.pixels.ravel(), minlength=65536) > 0
            highest = int(used.nonzero()[0][-1])
        return cls(
            name=name,
            size=decoded.size,
            highest=highest,
            used=np.packbits(used),
            alpha_varies=decoded.alpha_varies(),
            orientation=decoded.orientation,
        )


def grey_levels(seen: Iterable[Seen], reading: Reading) -> int:
    """Number of values from 0 to 255 that images use, over all images and channels together."""
    found = np.zeros(256, bool)
    for each in seen:
        (values,) = np.unpackbits(each.used).nonzero()
        found[reading.scaled(values) if len(each.used) > 32 else values] = True
    return int(found.sum())


class Remarks:
    """Collects notes on unusual images while they are read. Several threads may add to it.

    Args:
        advice: Advice for images that are brighter than the bit depth allows; `{}` stands for the
            bit depth that they need.
    """

    def __init__(self, advice: str = "fit again with `bit_depth` {}") -> None:
        self._advice = advice
        self._lock = threading.Lock()
        self._bright: dict[str, int] = {}
        self._with_alpha: dict[str, None] = {}
        self._highest = 0

    def add(self, name: str, *, highest: int, alpha_varies: bool, reading: Reading) -> None:
        """Notes if an image exceeds the bit depth or has a varying alpha channel."""
        with self._lock:
            if highest > reading.highest:
                self._bright[name] = highest
                self._highest = reading.highest
            if alpha_varies:
                self._with_alpha[name] = None

    def lines(self) -> tuple[str, ...]:
        """One line per kind of note, with the first names of the images in alphabetical order."""
        found = []
        with self._lock:
            if self._bright:
                most = max(self._bright.values())
                verb = by_count(len(self._bright), "is", "are")
                found.append(
                    f"{counted(len(self._bright), 'image')} {verb} brighter than the bit depth "
                    f"allows (values up to {most} are clipped at {self._highest}): "
                    f"{first_names(sorted(self._bright))}; {self._advice.format(_bits(most))}"
                )
            if self._with_alpha:
                found.append(
                    f"the alpha channel of {counted(len(self._with_alpha), 'image')} is "
                    f"dropped: {first_names(sorted(self._with_alpha))}; blend with a background "
                    "first if it matters"
                )
        return tuple(found)


def decide(
    reading: Reading, images: ImageInput | Iterable[ImageInput]
) -> tuple[Reading, tuple[str, ...]]:
    """Chooses the bit depth; returns the reading, and a warning if images use few gray levels.

    Images with 16 bits per channel are decoded if the reading has no bit depth yet. Of the others,
    a few are decoded, and all only if these few use few gray levels.

    Args:
        reading: The reading. If it has a bit depth, it is returned as it is.
        images: The images that the memory bank is fitted on.

    Raises:
        InputError: See `as_images` and `to_pil`.
    """
    listed = as_images(images)

    def look(index: int) -> Seen:
        image, name = listed[index], f"images[{index}]"
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
        if isinstance(image, str | os.PathLike | Image.Image):
            return Seen.of(name, decode(image, name, reading.exif))
        if _is_deep_array(image, name):
            return Seen.of(name, Decoded(_array(image, name)[0].astype(np.int32)))
        return Seen.of(name, Decoded(to_pil(image, name=name)))

    def has_depth(index: int) -> bool:
        image = listed[index]
        if isinstance(image, str | os.PathLike | Image.Image):
            return is_deep(image)
        return _is_deep_array(image, f"images[{index}]")

    indices = range(len(listed))
    seen: dict[int, Seen] = {}
    if reading.bit_depth is None:
        deep = [i for i, has in zip(indices, in_threads(has_depth, indices), strict=True) if has]
        seen.update(zip(deep, in_threads(look, deep), strict=True))
        reading = reading.decided(seen.values())
    for some in (indices[:0], indices[:_USUALLY_ENOUGH], indices):
        missing = [index for index in some if index not in seen]
        seen.update(zip(missing, in_threads(look, missing), strict=True))
        warnings = few_levels([*seen.values()], reading)
        if not warnings:
            return reading, ()
    return reading, warnings if listed else ()


def few_levels(seen: Sequence[Seen], reading: Reading) -> tuple[str, ...]:
    """A warning if the fit images use few gray levels."""
    levels = grey_levels(seen, reading)
    if levels >= FEW_LEVELS:
        return ()
    deep = any(each.highest for each in seen)
    where = f" at a bit depth of {reading.bit_depth}" if deep else ""
    least = _bits(max((each.highest for each in seen), default=0))
    smaller = deep and reading.bit_depth is not None and least < reading.bit_depth
    todo = (
        f"give `bit_depth` {least}"
        if smaller
        else "stretch the contrast of all images by the same factor"
    )
    return (
        f"the fit images use {levels} gray levels{where}, expected {FEW_LEVELS} or more: faint "
        f"defects vanish; {todo}",
    )


def read_image(path: StrPath, reading: Reading = DEFAULT_READING) -> Image.Image:
    """Reads an image of any mode as RGB.

    Alpha is dropped; colors are not blended with a background.

    Args:
        path: The file.
        reading: Bit depth and treatment of the EXIF orientation.

    Raises:
        InputError: The file cannot be decoded completely, holds several pictures (pages, frames),
            or holds floats or values outside 0 to 65535.
    """
    return to_pil(path, reading=reading)


def to_pil(
    image: ImageInput,
    *,
    name: str = "image",
    reading: Reading = DEFAULT_READING,
    remarks: Remarks | None = None,
) -> Image.Image:
    """Converts an image of any kind to RGB, by the rules of `read_image`.

    Args:
        image: A file; a PIL image of any mode, loaded or not; an array `[H, W]` or `[H, W, C]` with
            1 or 3 channels, or 4 where the last is alpha; or a tensor `[C, H, W]` with 1 or 3
            channels on any device. Values are uint8, uint16, or floats in [0, 1] (times 255,
            rounded).
        name: Name of an image in memory, for messages.
        reading: See `read_image`. The bit depth also applies to uint16 arrays and tensors.
        remarks: Collects notes on unusual images.

    Raises:
        InputError: The image is none of these, or see `read_image`.
    """
    if isinstance(image, str | os.PathLike | Image.Image):
        if not isinstance(image, Image.Image):
            name = os.fspath(image)
        decoded = decode(image, name, reading.exif)
        deep = not isinstance(decoded.pixels, Image.Image)
        if remarks is not None:
            remarks.add(
                name,
                highest=int(decoded.pixels.max()) if deep else 0,  # type: ignore[union-attr]
                alpha_varies=decoded.alpha_varies(),
                reading=reading,
            )
        if isinstance(decoded.pixels, Image.Image):
            return decoded.rgb()
        return _rgb_of(reading.scaled(decoded.pixels))
    values, alpha = _array(image, name)
    highest = 0
    if values.dtype.kind == "f":
        pixels = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    elif values.dtype == np.uint8:
        pixels = values
    else:
        pixels, highest = reading.scaled(values), int(values.max())
    if remarks is not None:
        varies = alpha is not None and bool((alpha != alpha.flat[0]).any())
        remarks.add(name, highest=highest, alpha_varies=varies, reading=reading)
    return _rgb_of(pixels)


def full_depth(image: ImageInput, name: str, exif: str = "apply") -> npt.NDArray[Any]:
    """Converts an image of any kind to an array: uint8 `[H, W, 3]`, or uint16 `[H, W, C]` if it has
    16 bits per channel.

    Raises:
        InputError: See `to_pil`.
    """
    if isinstance(image, str | os.PathLike | Image.Image):
        return decode(image, name, exif).values()
    values, _ = _array(image, name)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return values.astype(np.uint16)
    return np.asarray(to_pil(image, name=name))


def as_images(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """Makes a list of one or many images.

    Args:
        images: One image: a file, a PIL image, an array `[H, W]` or `[H, W, C]`, or a tensor
            `[C, H, W]`. Or many: a list or another iterable of these, an array `[N, H, W, C]`, or a
            tensor `[N, C, H, W]`.

    Raises:
        InputError: The argument is none of these.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        if images.ndim == 4:
            return list(images)
        if images.ndim == 3 or (images.ndim == 2 and isinstance(images, np.ndarray)):
            return [images]
    found = None
    if isinstance(images, torch.Tensor):
        found = f"a tensor {list(images.shape)}"
    elif isinstance(images, np.ndarray) and images.ndim == 0:
        found = f"an array {images.dtype} []"
    elif not isinstance(images, Iterable):
        found = type(images).__name__
    if found is not None:
        raise InputError(f"`images` is {found}, {_EXPECTED}, or many of these")
    many = list(images)
    for index, image in enumerate(many):
        if not isinstance(image, str | os.PathLike | Image.Image | np.ndarray | torch.Tensor):
            raise InputError(f"images[{index}]: {type(image).__name__}, {_EXPECTED}")
    return many


def _array(
    image: npt.NDArray[Any] | torch.Tensor, name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """An image in memory as uint8, uint16 or float `[H, W, C]` with 1 or 3 channels, and its alpha,
    if any."""
    if isinstance(image, torch.Tensor):
        found = f"a tensor {image.dtype} {list(image.shape)}".replace("torch.", "")
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise InputError(f"{name}: {found}, expected [C, H, W] of 1 or 3 channels")
        if image.is_meta or image.layout != torch.strided:
            kind = "without values" if image.is_meta else str(image.layout).removeprefix("torch.")
            raise InputError(f"{name}: {found}, {kind}, expected a dense tensor")
        tensor = image.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.double()  # NumPy has no bfloat16
        whole = tensor.permute(1, 2, 0).numpy()
    elif isinstance(image, np.ndarray):
        found = f"an array {image.dtype} {list(image.shape)}"
        whole = image[..., None] if image.ndim == 2 else image
    else:
        raise InputError(f"{name}: {type(image).__name__}, {_EXPECTED}")
    if whole.ndim != 3 or whole.shape[2] not in (1, 3, 4) or 0 in whole.shape:
        raise InputError(f"{name}: {found}, expected [H, W] or [H, W, C] of 1, 3 or 4 channels")
    values = whole[..., :3]
    if values.dtype.kind == "f":
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):
            raise InputError(f"{name}: {found} of values {low:g} to {high:g}, expected 0 to 1")
    elif values.dtype.kind != "u" or values.dtype.itemsize > 2:
        raise InputError(f"{name}: {found}, expected uint8, uint16 or floats in [0, 1]")
    return values, whole[..., 3] if whole.shape[2] == 4 else None


def _is_deep_array(image: npt.NDArray[Any] | torch.Tensor, name: str) -> bool:
    """Whether an image in memory has 16 bits per channel."""
    values, _ = _array(image, name)
    return values.dtype.kind == "u" and values.dtype.itemsize == 2


def _rgb_of(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """An RGB image from pixels `[H, W, C]` with 1 or 3 channels."""
    height, width = pixels.shape[:2]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3))))


def _bits(highest: int) -> int:
    """The smallest bit depth that holds a value."""
    return next(bits for bits in BIT_DEPTHS if highest < 2**bits)
