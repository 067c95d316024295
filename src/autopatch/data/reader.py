"""Reads batches of images at one size, with read-ahead and a cache."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from autopatch.data.cache import Cache
from autopatch.data.reading import DEFAULT_READING, ImageInput, Reading, Remarks, as_images, to_pil
from autopatch.data.threads import image_threads, in_threads
from autopatch.errors import InputError

_BATCHES_AHEAD = 2

_Stamp: TypeAlias = tuple[int, int, int, int]


class Preparation(Protocol):
    """Turns an image into pixels. Hashable; the size is the same for all images."""

    def pixels(self, image: Image.Image, /) -> npt.NDArray[np.uint8]:
        """The pixels `[H, W, 3]` of an RGB image."""
        ...


@dataclass(frozen=True)
class Square:
    """Resizes images to a square (PIL bilinear, without keeping the aspect ratio).

    Attributes:
        size: Side of the square, in pixels.

    Raises:
        InputError: The size is below 1.
    """

    size: int

    def __post_init__(self) -> None:
        _require_size("image_size", self.size)

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The pixels `[size, size, 3]` of an RGB image."""
        # np.array copies: PIL's buffer is read-only, and torch warns about that.
        return np.array(image.resize((self.size, self.size), Image.Resampling.BILINEAR))


def load_images(
    images: ImageInput | Iterable[ImageInput],
    preparation: Preparation | int,
    reading: Reading = DEFAULT_READING,
) -> torch.Tensor:
    """Reads images and brings them to one size.

    Args:
        images: N images, or a single one, see `as_images`.
        preparation: Brings each image to the same size; a number S stands for `Square(S)`, which
            does not change an image that already has this size.
        reading: How the images are read.

    Returns:
        uint8 `[N, 3, H, W]`, RGB, 0..255.

    Raises:
        InputError: See `to_pil`.
    """
    listed, prepared = as_images(images), _preparation(preparation)
    height, width, _ = prepared.pixels(Image.new("RGB", (1, 1))).shape
    pixels = np.empty((len(listed), 3, height, width), np.uint8)

    def load(index: int) -> None:
        pixels[index] = _pixels(listed[index], f"images[{index}]", prepared, reading)

    in_threads(load, range(len(listed)))
    return torch.from_numpy(pixels)


class ImageReader:
    """Reads images in batches, ahead of use, and caches the pixels of files.

    Several threads may share a reader.

    Args:
        cache: Keeps the resized pixels of files; None keeps none. A file that has changed is read
            again.
        reading: How the images are read.
        remarks: Collects notes on unusual images; None collects none.

    Attributes:
        decoded: Number of images that were decoded, not taken from the cache.
    """

    def __init__(
        self,
        cache: Cache | None = None,
        reading: Reading = DEFAULT_READING,
        remarks: Remarks | None = None,
    ) -> None:
        self.decoded = 0
        self._reading = reading
        self._remarks = remarks
        self._cache = Cache(0) if cache is None else cache
        self._lock = threading.Lock()

    def batches(
        self,
        images: ImageInput | Iterable[ImageInput],
        preparation: Preparation | int,
        batch_size: int,
    ) -> Iterator[torch.Tensor]:
        """Reads images as `load_images` does, in batches. The next two batches are read ahead.

        Args:
            images: See `load_images`.
            preparation: See `load_images`.
            batch_size: Images per batch; the last batch may have fewer.

        Returns:
            An iterator over uint8 `[n, 3, H, W]`. Its threads end when it is exhausted or closed.

        Raises:
            InputError: A size is below 1. While iterating: `to_pil` refuses an image.
        """
        _require_size("batch_size", batch_size)
        return self._read(as_images(images), _preparation(preparation), batch_size)

    def _read(
        self, images: Sequence[ImageInput], preparation: Preparation, batch_size: int
    ) -> Iterator[torch.Tensor]:
        with image_threads() as pool:
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
            return self._pixels_of(image, index, preparation)
        key = os.fspath(image), stamp, preparation
        pixels: torch.Tensor | None = self._cache.get(key)
        if pixels is None:
            pixels = self._pixels_of(image, index, preparation)
            self._cache.put(key, pixels, pixels.nbytes)
        return pixels

    def _pixels_of(self, image: ImageInput, index: int, preparation: Preparation) -> torch.Tensor:
        with self._lock:
            self.decoded += 1
        return _pixels(image, f"images[{index}]", preparation, self._reading, self._remarks)


def _preparation(preparation: Preparation | int) -> Preparation:
    return Square(preparation) if isinstance(preparation, int) else preparation


def _pixels(
    image: ImageInput,
    name: str,
    preparation: Preparation,
    reading: Reading,
    remarks: Remarks | None = None,
) -> torch.Tensor:
    """One image as in `load_images`, uint8 `[3, H, W]`."""
    pixels = preparation.pixels(to_pil(image, name=name, reading=reading, remarks=remarks))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _stamp(image: ImageInput) -> _Stamp | None:
    """Identifies the contents of a file by its status; None for an image in memory."""
    if not isinstance(image, str | os.PathLike):
        return None
    try:
        status = Path(image).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _require_size(name: str, size: int) -> None:
    if size < 1:
        raise InputError(f"`{name}` is {size}, expected at least 1")
