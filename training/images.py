"""Images for distillation, and random crops of them."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from autopatch.data import (
    IMAGE_SUFFIXES,
    ImageInput,
    Reading,
    Square,
    decide,
    folder_images,
    to_pil,
)
from autopatch.data.decoding import decode
from autopatch.data.walker import is_hidden
from autopatch.errors import InputError, one_line

CROP = 96  # pixels
_SCALES = (0.5, 2.0)  # side of a crop in its image, relative to its final side
_GREY = 0.4  # share of gray crops
_LEAST = 64  # smallest side of an image, in pixels
_LARGEST = 288  # an image is reduced until its smaller side has at most this many pixels
_SHOWN = Square(224)


def read_images(paths: Sequence[Path]) -> list[torch.Tensor]:
    """Reads the images of `read_pictures`, one tensor uint8 `[N, 3, H, W]` per image size.

    Raises:
        InputError: See `read_pictures`.
    """
    by_size: dict[tuple[int, int], list[np.ndarray]] = {}
    for _, pixels in read_pictures(paths):
        by_size.setdefault(pixels.shape[:2], []).append(pixels)
    return [torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in by_size.values()]


def read_pictures(paths: Sequence[Path]) -> list[tuple[Path, np.ndarray]]:
    """Reads images from tar files and folders: the path of each, and its pixels uint8 `[H, W, 3]`.

    Images are read as in a search, with one bit depth for all. Images whose shorter side exceeds
    the largest default image size are resized to a square of the middle default size, so that crops
    show their texture at the scale that a network sees. Images with a side below 64 px are skipped.

    Raises:
        InputError: A path does not exist, is neither a folder nor a tar file, an image cannot be
            read, or no image has sides of at least 64 px.
    """
    found: list[tuple[Path, ImageInput]] = []
    for path in paths:
        if path.is_dir():
            found.extend((image, image) for image in folder_images(path))
        elif path.exists():
            found.extend(_members(path))
        else:
            raise InputError(f"{path}: no such file or folder, expected images")
    reading, _ = decide(Reading(), [image for _, image in found])
    pictures = []
    for name, image in found:
        picture = to_pil(image, reading=reading)
        large = min(picture.size) > _LARGEST
        pixels = _SHOWN.pixels(picture) if large else np.asarray(picture)
        if min(pixels.shape[:2]) >= _LEAST:
            pictures.append((name, pixels))
    if not pictures:
        raise InputError(f"no images of {_LEAST} px and more in {', '.join(map(str, paths))}")
    return pictures


def _members(path: Path) -> Iterator[tuple[Path, ImageInput]]:
    """The images of a tar file: path in the file, and pixels of full bit depth."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name)
                if name.suffix.lower() not in IMAGE_SUFFIXES or any(map(is_hidden, name.parts)):
                    continue
                file = archive.extractfile(member)
                if file is not None:
                    yield name, decode(io.BytesIO(file.read()), f"{path}:{name}").values()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read as a tar file ({one_line(error)}), expected a folder of "
            "images or a tar file of them"
        ) from None


def crops(
    images: Sequence[torch.Tensor], count: int, size: int, generator: torch.Generator
) -> torch.Tensor:
    """Random crops of random images.

    The augmentation keeps the texture: crops are enlarged or reduced by at most a factor of two,
    mirrored, rotated by multiples of 90 degrees, changed in brightness and contrast, and sometimes
    converted to gray. A crop is at most as large as the smaller side of its image.

    Args:
        images: Images from `read_images`; each tensor is drawn with equal probability.
        count: Number of crops.
        size: Side of the crops, in pixels.
        generator: Random numbers, on the CPU.

    Returns:
        `[count, 3, size, size]`, float32, in [0, 1].
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def integer(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    found = []
    for _ in range(count):
        group = images[integer(len(images))]
        image = group[integer(len(group))]
        side = min(round(size * uniform(*_SCALES)), *image.shape[1:])
        top, left = (integer(extent - side + 1) for extent in image.shape[1:])
        crop = image[None, :, top : top + side, left : left + side].float() / 255
        crop = F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True)[0]
        crop = torch.rot90(crop, integer(4), (1, 2))
        if integer(2):
            crop = crop.flip(2)
        if uniform(0, 1) < _GREY:
            crop = crop.mean(dim=0, keepdim=True).expand_as(crop)
        mean = crop.mean()
        crop = (crop - mean) * uniform(0.5, 1.5) + mean + uniform(-0.2, 0.2)
        found.append(crop.clamp(0, 1))
    return torch.stack(found)
