"""Known images: what images of known defects, and further good ones, add to a fitted head."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from autopatch.data import (
    GOOD,
    Cells,
    ImageInput,
    ImageReader,
    Preparation,
    Reading,
    Sample,
    image_digests,
    to_mask,
    to_pil,
)
from autopatch.detector.coreset import choose_coreset
from autopatch.detector.extractor import PatchAggregator, feature_maps, grid, images_at_a_time
from autopatch.detector.memory import MemoryBank
from autopatch.detector.packed import PackedImages
from autopatch.errors import InputError
from autopatch.kernels import mean_distances
from autopatch.supernet import Subnet

ROWS_PER_IMAGE = 100
"""Largest number of good and of defect rows that one known image adds."""


@dataclass(frozen=True)
class Defect:
    """An image of a known defect.

    Attributes:
        image: A path, PIL image, HWC array or CHW tensor.
        mask: The anomalous pixels: a path, PIL image, or array or tensor `[H, W]` of the image's
            size; black is normal.
        type: Type of the anomaly, such as "scratch"; not "good".
        name: Name in the detector and in messages; if None, the name of the file, or a number.
    """

    image: ImageInput
    mask: Any
    type: str = "defect"
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.type or self.type == GOOD:
            raise InputError(f"`type` of a defect is {self.type!r}, expected an anomaly type")

    @classmethod
    def of(cls, defect: Defect | Sample) -> Defect:
        """The defect that a sample of a data set shows.

        Raises:
            InputError: The sample is good.
        """
        if isinstance(defect, Defect):
            return defect
        return cls(defect.image, defect.mask, defect.type)


@dataclass(frozen=True)
class Example:
    """An image to add to a fitted head.

    Attributes:
        name: Its name in messages, and in the detector.
        type: Anomaly type, or "good".
        image: The image.
        mask: Its anomalous pixels, see `Defect`; None for a good image.
    """

    name: str
    type: str
    image: ImageInput
    mask: Any = None


def examples(defects: Iterable[Defect | Sample], good: Sequence[ImageInput]) -> list[Example]:
    """The images to add, defects first.

    An image without a name is called by its type and the name of its file or, if it is in memory,
    its number.

    Raises:
        InputError: A defect is a good sample.
    """
    found = []
    for number, defect in enumerate(map(Defect.of, defects)):
        name = defect.name or _name(defect.type, defect.image, number)
        found.append(Example(name, defect.type, defect.image, defect.mask))
    for number, image in enumerate(good):
        found.append(Example(_name(GOOD, image, number), GOOD, image))
    return found


def _name(kind: str, image: ImageInput, number: int) -> str:
    file = Path(image).name if isinstance(image, str | os.PathLike) else str(number)
    return f"{kind}/{file}"


@dataclass(frozen=True)
class KnownImage:
    """What a detector remembers of an image that was added to it.

    Attributes:
        name: Its name, unique in the detector.
        type: Anomaly type, or "good".
        digest: Hash of its pixels, hexadecimal.
        good_rows: Number of rows that it added to the memory bank.
        defect_rows: Number of rows that it added to the defect bank.
    """

    name: str
    type: str
    digest: str
    good_rows: int
    defect_rows: int


@dataclass(frozen=True)
class KnownPatches:
    """The patches that one image adds.

    Attributes:
        good: Rows for the memory bank, `[G, D]`.
        defects: Rows for the defect bank, `[F, D]`.
    """

    good: torch.Tensor
    defects: torch.Tensor

    @classmethod
    def of(
        cls, patches: torch.Tensor, cells: Cells, memory: MemoryBank, radius: float
    ) -> KnownPatches:
        """Chooses the patches of one image that are worth adding.

        Good patches are added only if they are farther from the bank than its covering radius. Of
        more than `ROWS_PER_IMAGE` patches, a coreset is added. The choice does not depend on other
        known images, so images can be added and removed in any order.

        Args:
            patches: Patch features of the image, `[H * W, D]`.
            cells: Its good and its anomalous patches.
            memory: The bank of the good images that the detector was fitted on.
            radius: Covering radius of that bank.
        """
        good = patches[torch.from_numpy(cells.good).flatten().to(patches.device)]
        if len(good):
            distances = mean_distances(good, memory.index)
            good = good[distances > radius**2]
        defects = patches[torch.from_numpy(cells.anomalous).flatten().to(patches.device)]
        return cls(_thinned(good), _thinned(defects))


@dataclass(frozen=True)
class Known:
    """Images that were added, and their patches, in the order in which they were added.

    Attributes:
        images: The images.
        patches: The patches of each image.
    """

    images: tuple[KnownImage, ...] = ()
    patches: tuple[KnownPatches, ...] = ()

    def without(self, names: Iterable[str]) -> Known:
        """All images but those of the given names.

        Raises:
            InputError: There is no image of a name.
        """
        removed = set(names)
        unknown = removed - {image.name for image in self.images}
        if unknown:
            shown = ", ".join(repr(image.name) for image in self.images[:10]) or "none"
            raise InputError(
                f"`remove` names {min(unknown)!r}, expected one of the known images: {shown}"
            )
        kept = [i for i, image in enumerate(self.images) if image.name not in removed]
        return Known(tuple(self.images[i] for i in kept), tuple(self.patches[i] for i in kept))

    def add(self, other: Known) -> Known:
        """All images of both.

        An image whose name is taken gets a number in brackets.

        Raises:
            InputError: An image is known already.
        """
        names = {image.digest: image.name for image in self.images}
        images = list(self.images)
        for image in other.images:
            if image.digest in names:
                raise InputError(
                    f"{image.name}: the detector knows this picture as {names[image.digest]!r}; "
                    "remove that first"
                )
            taken, number = set(names.values()), 2
            name = image.name
            while name in taken:
                name, number = f"{image.name} ({number})", number + 1
            names[image.digest] = name
            images.append(replace(image, name=name))
        return Known(tuple(images), self.patches + other.patches)

    def joined(self, fitted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the memory bank and of the defect bank.

        Args:
            fitted: Rows of the fit images, `[N, D]`.
        """
        good = torch.cat([fitted, *(patches.good for patches in self.patches)])
        return good, torch.cat([fitted[:0], *(patches.defects for patches in self.patches)])

    @classmethod
    def split(
        cls, images: Sequence[KnownImage], bank: torch.Tensor, defects: torch.Tensor
    ) -> tuple[torch.Tensor, Known]:
        """The inverse of `joined`: the rows of the fit images, and the known images.

        Args:
            images: The known images.
            bank: Rows of the memory bank.
            defects: Rows of the defect bank.
        """
        added = [image.good_rows for image in images]
        fitted, *good = bank.split([len(bank) - sum(added), *added])
        of_defects = defects.split([image.defect_rows for image in images])
        return fitted, cls(tuple(images), tuple(map(KnownPatches, good, of_defects)))


def know(
    added: Sequence[Example],
    *,
    subnet: Subnet,
    preparation: Preparation,
    aggregator: PatchAggregator,
    memory: MemoryBank,
    radius: float,
    calibration: PackedImages,
    reader: ImageReader,
    reading: Reading,
    told: Callable[[int, int], None] | None = None,
) -> Known:
    """Reads images and chooses the patches that they add.

    Args:
        added: The images.
        subnet: The backbone.
        preparation: Brings images to one size.
        aggregator: Turns feature maps into patch features.
        memory: The bank of the fit images.
        radius: Covering radius of that bank.
        calibration: The calibration images.
        reader: Reads the images.
        reading: How image and mask files become pixels.
        told: Called after every image with the number of images done, and their total.

    Raises:
        InputError: An image or a mask cannot be read, their sizes differ, or an image is also a
            calibration image.
    """
    masks = [_mask(example, reading) for example in added]
    images = [example.image for example in added]
    digests = image_digests(images, reading.exif)
    _refuse_calibration_images(added, reader, preparation, calibration)
    patches = []
    for done, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        # One at a time: the images of a batch change each other's features by rounding.
        (maps,) = feature_maps(subnet, preparation, [image], reader=reader)
        cells = Cells.of(mask, *grid(maps))
        patches.append(KnownPatches.of(aggregator(maps), cells, memory, radius))
        if told is not None:
            told(done, len(images))
    known = [
        KnownImage(e.name, e.type, digest.hex(), len(p.good), len(p.defects))
        for e, digest, p in zip(added, digests, patches, strict=True)
    ]
    return Known(tuple(known), tuple(patches))


def _refuse_calibration_images(
    added: Sequence[Example],
    reader: ImageReader,
    preparation: Preparation,
    calibration: PackedImages,
) -> None:
    """Raises InputError if an image is a calibration image: the threshold would be set on it."""
    seen = {
        _digest(pixels)
        for batch in calibration.batches(images_at_a_time(torch.device("cpu")))
        for pixels in calibration.pixels(batch)
    }
    batches = reader.batches([example.image for example in added], preparation, 1)
    for example, pixels in zip(added, batches, strict=True):
        if _digest(pixels[0]) in seen:
            raise InputError(
                f"{example.name}: this picture is one of the good images that set the threshold; "
                "expected an image that the detector was not fitted with"
            )


def _digest(pixels: torch.Tensor) -> bytes:
    return hashlib.sha256(pixels.numpy().tobytes()).digest()


def _mask(example: Example, reading: Reading) -> Image.Image | None:
    if example.mask is None:
        return None
    mask = to_mask(example.mask, name=f"the mask of {example.name}", reading=reading)
    size = to_pil(example.image, name=example.name, reading=reading).size
    if mask.size != size:
        raise InputError(
            f"{example.name}: the mask is {mask.width} x {mask.height} pixels, expected "
            f"{size[0]} x {size[1]} as the image"
        )
    return mask


class DefectBank(MemoryBank):
    """Patch features of known defects. It may be empty.

    Args:
        bank: The rows, `[F, D]`, float32.
        weight: See `autopatch.kernels.defect_scores`.
        usual: See `autopatch.kernels.defect_scores`; any value for an empty bank.
    """

    def __init__(self, bank: torch.Tensor, *, weight: float, usual: float = 1.0) -> None:
        super().__init__(bank)
        self.weight = weight
        self.usual = usual


def usual_distance(distances: torch.Tensor) -> float:
    """The usual distance m of `autopatch.kernels.defect_scores`: the median, but above 0.

    Args:
        distances: d_n of patches of good images to a bank without these images.
    """
    smallest = torch.finfo(torch.float32).tiny
    return max(float(distances.median()), smallest)


def _thinned(rows: torch.Tensor) -> torch.Tensor:
    if len(rows) <= ROWS_PER_IMAGE:
        return rows
    return choose_coreset([rows], ROWS_PER_IMAGE, patches=len(rows)).rows
