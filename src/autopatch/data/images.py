"""Images and masks: reading any mode, resizing, stacking into tensors, reading ahead."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from autopatch.data.pages import require_one_picture
from autopatch.data.samples import Sample
from autopatch.errors import InputError, one_line
from autopatch.files import StrPath

ImageInput: TypeAlias = StrPath | Image.Image | npt.NDArray[Any] | torch.Tensor
"""An image: a file, a PIL image, an array `[H, W]` or `[H, W, C]`, a tensor `[C, H, W]`."""

EVALUATION_SIZE = 224
"""Side, in pixels, of the masks that all candidates are scored against by default."""

_MAX_THREADS = 8
_BATCHES_AHEAD = 2
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})

_EXPECTED = (
    "expected a file, a PIL image, an array [H, W] or [H, W, C] or a tensor [C, H, W], of uint8, "
    "uint16 or floats in [0, 1]"
)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Key: TypeAlias = "tuple[str, Preparation]"
_Stamp: TypeAlias = tuple[int, int, int, int]


def read_image(path: StrPath) -> Image.Image:
    """Reads an image of any mode as RGB.

    The EXIF orientation is applied, alpha is dropped (colors are not blended with a background).
    16-bit grey values are divided by 257, so that 0..65535 becomes 0..255 whatever range the image
    uses.

    Raises:
        InputError: The file cannot be decoded to its end, holds several pictures (pages, frames),
            or holds floats or values outside 16 bits.
    """
    return _as_rgb(_decode(path, path), path)


def to_pil(image: ImageInput, *, name: str = "image") -> Image.Image:
    """Gives an image of any kind as RGB, by the rules of `read_image`.

    Args:
        image: A file; a PIL image of any mode at its current frame, decoded or not; an array
            `[H, W]` or `[H, W, C]` of 1 channel, 3, or 4 of which the last is alpha; or a tensor
            `[C, H, W]` of 1 or 3 channels on any device. Values are uint8, uint16 (divided by
            257), or floats in [0, 1] (times 255, rounded).
        name: What messages call an image that is no file.

    Raises:
        InputError: It is none of these, or see `read_image`.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _as_rgb(_decode(image, name), name)
    if isinstance(image, torch.Tensor):
        return _pil_of_tensor(image, name)
    if isinstance(image, np.ndarray):
        return _pil_of_array(image, name, f"an array {image.dtype} {list(image.shape)}")
    raise InputError(f"{name}: {type(image).__name__}, {_EXPECTED}")


def as_images(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """Gives one image or many as a list of images.

    Args:
        images: One image: a file, a PIL image, an array `[H, W]` or `[H, W, C]`, a tensor
            `[C, H, W]`. Or many: a list or another iterable of these, an array `[N, H, W, C]`, a
            tensor `[N, C, H, W]`.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        if images.ndim == 4:
            return list(images)
        if images.ndim == 3 or (images.ndim == 2 and isinstance(images, np.ndarray)):
            return [images]
    if isinstance(images, torch.Tensor) or not isinstance(images, Iterable):
        found = (
            f"a tensor {list(images.shape)}"
            if isinstance(images, torch.Tensor)
            else type(images).__name__
        )
        raise InputError(f"images: {found}, {_EXPECTED}, or many of these")
    many = list(images)
    for index, image in enumerate(many):
        if not isinstance(image, str | os.PathLike | Image.Image | np.ndarray | torch.Tensor):
            raise InputError(f"images[{index}]: {type(image).__name__}, {_EXPECTED}")
    return many


def read_mask(path: StrPath) -> Image.Image:
    """Reads a mask as grey values 0 (normal) and 255 (anomalous).

    A mask is black, and one other value or color where the image is anomalous.

    Raises:
        InputError: The file cannot be decoded to its end, has more than one value besides 0, two
            values neither of which is 0, or no anomalous pixel.
    """
    image = _decode(path, path)
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


class Preparation(Protocol):
    """How an image becomes pixels; hashable, and all images become of one size."""

    def pixels(self, image: Image.Image, /) -> npt.NDArray[np.uint8]:
        """The pixels `[H, W, 3]` of an RGB image."""
        ...


@dataclass(frozen=True)
class Square:
    """Images resized to a square (PIL bilinear, the aspect is not kept).

    Attributes:
        size: Its side, in pixels.

    Raises:
        InputError: The size is below 1.
    """

    size: int

    def __post_init__(self) -> None:
        _require_size("image_size", self.size)

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The pixels `[size, size, 3]` of an RGB image."""
        # np.array: PIL's buffer is read-only, which torch warns about.
        return np.array(_resize(image, self.size))


def load_images(images: Sequence[ImageInput], preparation: Preparation | int) -> torch.Tensor:
    """Reads images and prepares each.

    Args:
        images: N images of any kind that `to_pil` takes.
        preparation: What gives them one size; a number S is `Square(S)`, which leaves an image that
            has this size already as it is.

    Returns:
        uint8 `[N, 3, H, W]`, RGB, 0..255.

    Raises:
        InputError: See `to_pil`.
    """
    prepared = _preparation(preparation)
    height, width, _ = prepared.pixels(Image.new("RGB", (1, 1))).shape
    pixels = np.empty((len(images), 3, height, width), np.uint8)

    def load(index: int) -> None:
        pixels[index] = _pixels(images[index], f"images[{index}]", prepared)

    in_threads(load, range(len(images)))
    return torch.from_numpy(pixels)


class ImageReader:
    """Reads images batch by batch ahead of the one who computes on them, and keeps files' pixels.

    Several threads may use one reader.

    Args:
        cache_bytes: Bytes of resized pixels to keep, those least recently used are let go; 0
            keeps none. A file that has changed is read again.
    """

    def __init__(self, cache_bytes: int = 1 << 30) -> None:
        if cache_bytes < 0:
            raise InputError(f"cache_bytes: {cache_bytes}, expected at least 0")
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[_Key, tuple[_Stamp, torch.Tensor]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def batches(
        self, images: Sequence[ImageInput], preparation: Preparation | int, batch_size: int
    ) -> Iterator[torch.Tensor]:
        """Gives what `load_images` gives, in batches; the next two are read meanwhile.

        Args:
            images: N images of any kind that `to_pil` takes.
            preparation: See `load_images`.
            batch_size: Images of a batch; the last one may have fewer.

        Returns:
            An iterator over uint8 `[n, 3, H, W]`. Its threads end with it, also when it is closed
            early.

        Raises:
            InputError: A size is below 1; or, from the iterator, the first image that `to_pil`
                refuses.
        """
        _require_size("batch_size", batch_size)
        return self._read(images, _preparation(preparation), batch_size)

    def _read(
        self, images: Sequence[ImageInput], preparation: Preparation, batch_size: int
    ) -> Iterator[torch.Tensor]:
        with _threads() as pool:
            under_way: deque[list[Future[torch.Tensor]]] = deque()
            try:
                for first in range(0, len(images), batch_size):
                    indices = range(first, min(first + batch_size, len(images)))
                    under_way.append(
                        [pool.submit(self._pixels, images[i], i, preparation) for i in indices]
                    )
                    if len(under_way) > _BATCHES_AHEAD:
                        yield torch.stack([future.result() for future in under_way.popleft()])
                while under_way:
                    yield torch.stack([future.result() for future in under_way.popleft()])
            finally:
                pool.shutdown(cancel_futures=True)

    def _pixels(self, image: ImageInput, index: int, preparation: Preparation) -> torch.Tensor:
        stamp = _stamp(image)
        if stamp is None or not isinstance(image, str | os.PathLike):
            return _pixels(image, f"images[{index}]", preparation)
        key = os.fspath(image), preparation
        with self._lock:
            stamped = self._kept.get(key)
            if stamped is not None and stamped[0] == stamp:
                self._kept.move_to_end(key)
                return stamped[1]
        pixels = _pixels(image, f"images[{index}]", preparation)
        self._keep(key, stamp, pixels)
        return pixels

    def _keep(self, key: _Key, stamp: _Stamp, pixels: torch.Tensor) -> None:
        with self._lock:
            outdated = self._kept.pop(key, None)
            if outdated is not None:
                self._kept_bytes -= outdated[1].nbytes
            self._kept[key] = stamp, pixels
            self._kept_bytes += pixels.nbytes
            while self._kept_bytes > self._cache_bytes:
                _, (_, oldest) = self._kept.popitem(last=False)
                self._kept_bytes -= oldest.nbytes


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


def in_threads(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    told: Callable[[int, int], None] | None = None,
) -> list[_Result]:
    """Maps in order over a small thread pool; decoding and resizing release the GIL.

    Args:
        function: Called on every item.
        items: The items.
        told: Called after every item with how many are done, and how many there are.
    """
    with _threads() as pool:
        futures = [pool.submit(function, item) for item in items]
        results = []
        try:
            for future in futures:
                results.append(future.result())
                if told is not None:
                    told(len(results), len(futures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return results


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "autopatch-images")


def _decode(source: StrPath | Image.Image, name: StrPath) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            source.load()
            decoded = ImageOps.exif_transpose(source)
        else:
            with Image.open(source) as image:
                require_one_picture(image, name)
                image.load()
                decoded = ImageOps.exif_transpose(image)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: no such file, expected an image") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image in a format that can be read") from None
    except (
        EOFError,
        OSError,
        SyntaxError,  # what Pillow raises for a broken PNG
        ValueError,
        Image.DecompressionBombError,
        struct.error,
        zlib.error,
    ) as error:
        raise InputError(f"{name}: unreadable or truncated image ({one_line(error)})") from None
    if decoded.mode not in _EIGHT_BIT_MODES | _SIXTEEN_BIT_MODES:
        kind = "floating point values" if decoded.mode == "F" else f"mode {decoded.mode}"
        raise InputError(f"{name}: {kind}, expected 8-bit or 16-bit integer values")
    return decoded


def _as_rgb(image: Image.Image, name: StrPath) -> Image.Image:
    if 0 in image.size:
        raise InputError(f"{name}: {image.width} x {image.height} pixels, expected at least 1 x 1")
    if image.mode not in _SIXTEEN_BIT_MODES:
        return _to_rgb(image)
    values = _integers(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"{name}: values {low} to {high}, expected 0 to 65535")
    return Image.fromarray(_eight_bits(values)).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    # Without this entry Pillow neither warns about nor translates a transparent color.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _eight_bits(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Values of 16 bits divided by 257, rounded."""
    return ((values + 128) // 257).astype(np.uint8)


def _pil_of_tensor(image: torch.Tensor, name: str) -> Image.Image:
    found = f"a tensor {image.dtype} {list(image.shape)}".replace("torch.", "")
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(f"{name}: {found}, expected [C, H, W] of 1 or 3 channels")
    values = image.detach().cpu()
    if values.is_floating_point():
        values = values.double()  # NumPy has no bfloat16
    return _pil_of_array(values.permute(1, 2, 0).numpy(), name, found)


def _pil_of_array(image: npt.NDArray[Any], name: str, found: str) -> Image.Image:
    values = image[..., None] if image.ndim == 2 else image
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise InputError(f"{name}: {found}, expected [H, W] or [H, W, C] of 1, 3 or 4 channels")
    values = values[..., :3]
    if values.dtype.kind == "f":
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):
            raise InputError(f"{name}: {found} of values {low:g} to {high:g}, expected 0 to 1")
        pixels = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    elif values.dtype.kind == "u" and values.dtype.itemsize == 2:
        pixels = _eight_bits(values.astype(np.int64))
    elif values.dtype == np.uint8:
        pixels = values
    else:
        raise InputError(f"{name}: {found}, expected uint8, uint16 or floats in [0, 1]")
    height, width = pixels.shape[:2]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3))))


def _preparation(preparation: Preparation | int) -> Preparation:
    return Square(preparation) if isinstance(preparation, int) else preparation


def _pixels(image: ImageInput, name: str, preparation: Preparation) -> torch.Tensor:
    """An image as `load_images` gives it, uint8 `[3, H, W]`."""
    pixels = preparation.pixels(to_pil(image, name=name))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _stamp(image: ImageInput) -> _Stamp | None:
    """What changes with the content of a file; None for what is no file."""
    if not isinstance(image, str | os.PathLike):
        return None
    try:
        status = Path(image).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _integers(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def _resize(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _require_size(name: str, size: int) -> None:
    if size < 1:
        raise InputError(f"{name}: {size}, expected at least 1")
