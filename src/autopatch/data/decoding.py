"""Decodes image files and opened Pillow images to pixels of full bit depth."""

from __future__ import annotations

import os
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from autopatch.data.pages import require_one_picture
from autopatch.errors import InputError, one_line, reason
from autopatch.files import StrPath

EXIF = ("apply", "ignore")
"""Ways to treat the EXIF orientation of an image."""

_MAX_PIXELS = 1 << 30
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PLANAR = 258, 284  # tags of TIFF
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_GREY_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_APPLY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposes that apply an EXIF orientation, by orientation."""
_UNDO = {**_APPLY, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""Transposes that undo an applied EXIF orientation, by orientation."""
_HOLD_ORIENTATION = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Entries of an image's `info` that may hold its orientation."""

_LOCKS = tuple(threading.Lock() for _ in range(64))
"""Locks of opened images, by identity: two threads must not load one image at the same time."""

_LITTLE, _BIG = "L", "B"
_NATIVE = _LITTLE if sys.byteorder == "little" else _BIG


@dataclass(frozen=True)
class Decoded:
    """A decoded image at its full bit depth.

    Attributes:
        pixels: For 8 bits per channel, a PIL image of any mode. For 16 bits per channel, an int32
            array `[H, W, C]`, gray or RGB.
        alpha: Alpha channel of an image with 16 bits per channel, int32 `[H, W]`; None if absent.
        orientation: EXIF orientation, 1 to 8; 1 if absent.
    """

    pixels: Image.Image | npt.NDArray[np.int32]
    alpha: npt.NDArray[np.int32] | None = None
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.size
        return self.pixels.shape[1], self.pixels.shape[0]

    def rgba(self) -> Image.Image | None:
        """An 8-bit image with transparency as RGBA; None for any other image."""
        if isinstance(self.pixels, Image.Image) and self.pixels.has_transparency_data:
            return self.pixels.convert("RGBA")
        return None

    def rgb(self) -> Image.Image:
        """An 8-bit image as RGB, without its alpha."""
        assert isinstance(self.pixels, Image.Image)
        image = self.pixels.copy() if "transparency" in self.pixels.info else self.pixels
        # With this entry Pillow would warn about a transparent color or convert it.
        image.info.pop("transparency", None)
        return image.convert("RGB")

    def values(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """The pixels: uint8 `[H, W, 3]`, or uint16 `[H, W, C]` for 16 bits per channel."""
        if isinstance(self.pixels, Image.Image):
            return np.asarray(self.rgb())
        return self.pixels.astype(np.uint16)

    def alpha_varies(self) -> bool:
        """Whether the image has an alpha channel with more than one value."""
        if self.alpha is not None:
            return bool((self.alpha != self.alpha.flat[0]).any())
        rgba = self.rgba()
        if rgba is None:
            return False
        low, high = rgba.getchannel("A").getextrema()
        return low != high


def decode(
    source: StrPath | IO[bytes] | Image.Image, name: StrPath, exif: str = "apply"
) -> Decoded:
    """Decodes an image file, or an image that Pillow has opened.

    Images may have up to 2**30 pixels; Pillow's limit of about 179 million does not apply. 16-bit
    channels are read in full, except in a color image that Pillow has already loaded: there only
    the high bytes are left.

    Args:
        source: The path of a file, an open file, which is closed, or an image, which is not
            changed.
        name: Name of the image in messages.
        exif: "apply" turns the image by its EXIF orientation, "ignore" leaves it as stored.

    Raises:
        InputError: The file is missing, damaged, of an unknown format, or holds several pictures;
            the image has more pixels; its values are floats or outside 0 to 65535; or the file of
            an opened image was closed before it was loaded.
    """
    try:
        if isinstance(source, Image.Image):
            with _lock_of(source):
                _require_open(source)
                return _decoded(source, name, exif)
        with Path(source).open("rb") if isinstance(source, str | os.PathLike) else source as file:
            image = _opened(file)
            require_one_picture(image, name)
            return _decoded(image, name, exif)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file, expected an image") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image in a format that can be read") from None
    except InputError:
        raise
    except Exception as error:  # Pillow raises errors of many types for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{name}: cannot be read: {reason(error)}") from None
        if isinstance(error, MemoryError):
            raise InputError(
                f"{name}: needs more memory than there is, or its header is damaged"
            ) from None
        if isinstance(source, Image.Image) and "closed" in str(error):
            raise InputError(
                f"{name}: its file is closed, expected an image that is loaded or still open"
            ) from None
        raise InputError(f"{name}: unreadable or truncated image ({one_line(error)})") from None


def is_deep(source: StrPath | Image.Image) -> bool:
    """Whether the header of an image says more than 8 bits per channel.

    Nothing is decoded. False if the header cannot be read.
    """
    try:
        if isinstance(source, Image.Image):
            with _lock_of(source):
                return source.mode in _GREY_MODES or _deep_color(source) is not None
        with Path(source).open("rb") as file:
            return is_deep(_opened(file))
    except Exception:  # `decode` names the fault
        return False


def _lock_of(image: Image.Image) -> threading.Lock:
    return _LOCKS[(id(image) >> 4) % len(_LOCKS)]


def _require_open(image: Image.Image) -> None:
    """Raises ValueError if an image was closed before it was loaded. Pillow raises the same error
    for one that was closed later."""
    if _is_lazy(image):
        assert isinstance(image, ImageFile.ImageFile)
        if image.fp is None:
            raise ValueError("Operation on closed image")


def _opened(file: IO[bytes]) -> Image.Image:
    """Opens a file as `Image.open` does, but without the size limit, which is global in Pillow."""
    Image.preinit()
    Image.init()
    prefix = file.read(16)
    for name in tuple(Image.ID):
        factory, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(prefix)
            if isinstance(accepted, str) or not accepted:
                continue
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnidentifiedImageError


def _decoded(image: Image.Image, name: StrPath, exif: str) -> Decoded:
    if image.width * image.height > _MAX_PIXELS:
        raise InputError(
            f"{name}: {image.width} x {image.height} pixels, expected at most {_MAX_PIXELS:,} "
            "pixels"
        )
    rawmode = _deep_color(image)
    if rawmode is not None:
        return _deep_decoded(image, rawmode, name, exif)
    turn = _Turn.of(image, exif)
    image.load()
    if image.mode not in _EIGHT_BIT_MODES | _GREY_MODES:
        kind = "floating point values" if image.mode == "F" else f"mode {image.mode}"
        raise InputError(f"{name}: {kind}, expected 8-bit or 16-bit integer values")
    if 0 in image.size:
        raise InputError(f"{name}: {image.width} x {image.height} pixels, expected at least 1 x 1")
    turned = turn(image)
    if turned.mode in _EIGHT_BIT_MODES:
        return Decoded(turned, None, turn.orientation)
    grey = np.asarray(turned).astype(np.int32)
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 65535:
        raise InputError(f"{name}: values {low} to {high}, expected 0 to 65535")
    return Decoded(grey[..., None], None, turn.orientation)


@dataclass(frozen=True)
class _Turn:
    """Turns a loaded image by its EXIF orientation, or leaves it as stored.

    Attributes:
        orientation: The orientation, 1 to 8.
        exif: One of `EXIF`.
        loading_turns: Whether Pillow turned the image while loading it, as it does for TIFF.
    """

    orientation: int
    exif: str
    loading_turns: bool

    @classmethod
    def of(cls, image: Image.Image, exif: str) -> _Turn:
        """The turn for an image, loaded or not."""
        is_lazy_tiff = image.format == "TIFF" and _is_lazy(image)
        orientation = image.getexif().get(_ORIENTATION, 1)  # loads a PNG
        return cls(int(orientation) if orientation in _APPLY else 1, exif, is_lazy_tiff)

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.orientation == 1 or (self.exif == "apply") == self.loading_turns:
            return image
        transposes = _APPLY if self.exif == "apply" else _UNDO
        turned = image.transpose(transposes[self.orientation])
        for entry in _HOLD_ORIENTATION:
            turned.info.pop(entry, None)
        return turned


def _is_lazy(image: Image.Image) -> bool:
    """Whether the pixels of an opened image have not been loaded yet."""
    return isinstance(image, ImageFile.ImageFile) and bool(image.tile)


def _rawmode(image: Image.Image) -> str:
    """Pillow's raw mode, by which it will unpack the pixels of an image not loaded yet."""
    assert isinstance(image, ImageFile.ImageFile)
    args = image.tile[0][3]
    return str(args[0] if isinstance(args, tuple) else args)


def _deep_color(image: Image.Image) -> str | None:
    """How the channels of a 16-bit image are packed of which Pillow reads only the high bytes.

    None for any other image, and for an image that is already loaded.
    """
    if not _is_lazy(image):
        return None
    assert isinstance(image, ImageFile.ImageFile)
    if image.mode == "RGB" and image.tile[0][0] in ("ppm", "ppm_plain"):
        return "PPM" if _ppm_maximum(image) > 255 else None
    if image.tile[0][0] == "SGI16":
        return "SGI;16"
    if image.format == "JPEG2000" and image.mode in ("LA", "RGB", "RGBA"):
        return "JPEG2000;16" if _bits_of_jpeg_2000(image) > 8 else None
    rawmode = _rawmode(image)
    if image.mode in ("L", "RGB", "RGBA", "CMYK") and ";16" in rawmode:  # L: of SGI files
        return rawmode
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "CMYK"):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return f"{rawmode};16" if max(bits) > 8 else None
    return None


def _bits_of_jpeg_2000(image: ImageFile.ImageFile) -> int:
    """Bits of the first channel, from the size marker of the codestream."""
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    header = image.fp.read(1 << 16)
    image.fp.seek(place)
    marker = header.find(b"\xff\x4f\xff\x51")
    return (header[marker + 42] & 0x7F) + 1 if marker >= 0 and marker + 42 < len(header) else 8


def _deep_decoded(image: Image.Image, rawmode: str, name: StrPath, exif: str) -> Decoded:
    """Decodes a color image with 16 bits per channel.

    Pillow has no such mode and unpacks only the high bytes. Unpacking again with the byte order
    swapped gives the low bytes.
    """
    assert isinstance(image, ImageFile.ImageFile)
    if rawmode == "PPM":
        return Decoded(_deep_ppm(image, name))
    kind, _, order = rawmode.partition(";16")
    planar = image.format == "TIFF" and image.tag_v2.get(_PLANAR, 1) != 1  # type: ignore[attr-defined]
    if planar or order not in ("B", "L", "N") or kind not in ("RGB", "RGBA", "RGBX", "LA"):
        raise InputError(
            f"{name}: 16 bits per channel in a layout that cannot be read, expected a PNG or TIFF "
            "file of 16-bit gray or RGB, interleaved"
        )
    if kind == "LA":
        four, orientation = _unpacked(image, "RGBA", exif)
        grey, alpha = (four[..., 0] << 8) | four[..., 1], (four[..., 2] << 8) | four[..., 3]
        return Decoded(grey[..., None], alpha, orientation)
    other = {"B": _LITTLE, "L": _BIG, "N": _BIG if _NATIVE == _LITTLE else _LITTLE}[order]
    high, orientation = _unpacked(image, rawmode, exif)
    low, _ = _unpacked(image, f"{kind};16{other}", exif)
    values = (high << 8) | low
    return Decoded(values[..., :3], values[..., 3] if kind == "RGBA" else None, orientation)


def _unpacked(
    image: ImageFile.ImageFile, rawmode: str, exif: str
) -> tuple[npt.NDArray[np.int32], int]:
    """Decodes an image's file again with another raw mode; returns pixels and EXIF orientation."""
    assert image.fp is not None
    place, frame = image.fp.tell(), image.tell()
    try:
        image.fp.seek(0)
        again = _opened(image.fp)
        assert isinstance(again, ImageFile.ImageFile)
        if frame:
            again.seek(frame)
        again.tile = [_with_rawmode(tile, rawmode) for tile in again.tile]
        turn = _Turn.of(again, exif)
        again.load()
        return np.asarray(turn(again)).astype(np.int32), turn.orientation
    finally:
        image.fp.seek(place)


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    codec, extents, offset, args = tile
    args = (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode
    make = getattr(type(tile), "_make", tuple)  # a plain tuple before Pillow 11
    return make((codec, extents, offset, args))


def _ppm_maximum(image: ImageFile.ImageFile) -> int:
    args = image.tile[0][3]
    return int(args[1]) if isinstance(args, tuple) else 255


def _deep_ppm(image: ImageFile.ImageFile, name: StrPath) -> npt.NDArray[np.int32]:
    codec, _, offset, _ = image.tile[0]
    highest = _ppm_maximum(image)
    if codec != "ppm":
        raise InputError(f"{name}: 16-bit values written as text, expected a binary PPM")
    assert image.fp is not None
    place = image.fp.tell()
    try:
        image.fp.seek(offset)
        count = 3 * image.width * image.height
        values = np.frombuffer(image.fp.read(2 * count), ">u2").astype(np.int64)
    finally:
        image.fp.seek(place)
    if len(values) != count:
        raise OSError("image file is truncated")
    scaled = (np.minimum(values, highest) * 65535 + highest // 2) // highest
    pixels: npt.NDArray[np.int32] = scaled.reshape(image.height, image.width, 3).astype(np.int32)
    return pixels
