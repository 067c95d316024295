"""Images to distil on, and the crops that are made of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from autopatch.data import IMAGE_SUFFIXES, ImageInput, Reading, Square, decide, to_pil
from autopatch.detector.input import DEFAULT_IMAGE_SIZES
from autopatch.errors import InputError

CROP = 96  # pixels
_SCALES = (0.5, 2.0)  # side of a crop in its image, relative to its side when it is used
_GREY = 0.4  # share of crops
_LEAST = 64  # pixels of an image
_LARGEST = max(DEFAULT_IMAGE_SIZES)
_SHOWN = Square(sorted(DEFAULT_IMAGE_SIZES)[len(DEFAULT_IMAGE_SIZES) // 2])


def read_images(paths: Sequence[Path]) -> list[torch.Tensor]:
    """Images in tar files and folders, uint8 `[N, 3, H, W]`, those of one size together.

    They are read as a search reads them, with one bit depth for all. Photographs larger than any
    image of a search are resized to a square of its middle size, so that a crop shows their texture
    at the scale at which a network sees it.

    Raises:
        InputError: A path does not exist, an image cannot be read, or there are no images of 64 px
            and more.
    """
    by_size: dict[tuple[int, int], list[np.ndarray]] = {}
    found: list[ImageInput] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder, expected images")
        found.extend(_files(path))
    reading, _ = decide(Reading(), found)
    for image in found:
        picture = to_pil(image, reading=reading)
        large = min(picture.size) > _LARGEST
        pixels = _SHOWN.pixels(picture) if large else np.asarray(picture)
        if min(pixels.shape[:2]) >= _LEAST:
            by_size.setdefault(pixels.shape[:2], []).append(pixels)
    if not by_size:
        raise InputError(f"no images of {_LEAST} px and more in {', '.join(map(str, paths))}")
    return [torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in by_size.values()]


def _files(path: Path) -> Iterator[ImageInput]:
    if path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                yield Image.open(io.BytesIO(file.read()))


def crops(
    images: Sequence[torch.Tensor], count: int, size: int, generator: torch.Generator
) -> torch.Tensor:
    """Random crops of random images.

    A crop keeps its texture: it is at most enlarged or reduced by two, mirrored, turned by
    quarters, made brighter or darker and of more or less contrast, and turned to grey at times. Of
    an image that is too small for the crop all of it is taken.

    Args:
        images: As `read_images` gives them; each group is drawn from alike.
        count: Of crops.
        size: Their side in pixels.
        generator: On the CPU.

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
