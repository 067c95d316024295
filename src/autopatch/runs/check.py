"""Finds images among the good ones of a data set that may show defects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    Dataset,
    ImageReader,
    Reading,
    Sample,
    decide,
    image_digests,
    read_image,
)
from autopatch.data.samples import short_path
from autopatch.detector import PatchAggregator, cut_subnet, feature_maps, grid
from autopatch.detector.folds import related_images
from autopatch.detector.unusual import distances_to_others, highest_usual, patch_coresets
from autopatch.detector.upsampling import Upsampling
from autopatch.errors import InputError
from autopatch.files import StrPath, require_writable_file
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.report import ColorScale, write_unusual
from autopatch.runs.fit import patchcore_setting
from autopatch.runs.source import SplitRequest, open_dataset
from autopatch.supernet import load_supernet
from autopatch.words import by_count, counted

_LEAST_IMAGES = 8
_TOGETHER = 1000  # images that are compared with each other; bounds memory and time
_SHOWN = (6, 24)  # images in the picture: at least, at most
_SEED = 0


@dataclass(frozen=True)
class ComparedImage:
    """A good image, compared with the others.

    Attributes:
        sample: The image.
        name: Its path in the data set, with forward slashes.
        score: Its image score, in multiples of the median.
        unusual: Whether the score is above the limit.
    """

    sample: Sample
    name: str
    score: float
    unusual: bool


@dataclass(frozen=True)
class DeepCheck:
    """The result of `check_deep`.

    Attributes:
        images: All good images, the most unusual first.
        limit: The score above which an image is unusual, in multiples of the median.
        picture: The picture; None if none was written.
    """

    images: tuple[ComparedImage, ...]
    limit: float
    picture: Path | None

    @property
    def unusual(self) -> tuple[ComparedImage, ...]:
        """The images that do not look like the others, the most unusual first."""
        return tuple(image for image in self.images if image.unusual)

    def lines(self) -> tuple[str, ...]:
        """The unusual images, one line each, and what to do."""
        found = self.unusual
        total = counted(len(self.images), "good image")
        if not found:
            first = self.images[0]
            return (
                f"compared {total}: none is unusual, the highest score is {first.score:.2f} x the "
                f"median ({first.name})",
            )
        pronoun, these = (
            by_count(len(found), "it", "them"),
            by_count(len(found), "it is", "they are"),
        )
        does, defects = (
            by_count(len(found), "does", "do"),
            by_count(len(found), "a defect", "defects"),
        )
        return (
            *(f"{image.name}: score {image.score:.2f} x the median" for image in found),
            f"compared {total}: {len(found)} {does} not look like the others; look at {pronoun}, "
            f"and remove {pronoun} from the good images if {these} {defects}",
        )


def check_deep(
    data: StrPath | Dataset,
    out: StrPath | None = None,
    *,
    group_regex: str | None = None,
    groups: StrPath | None = None,
    reading: Reading = DEFAULT_READING,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> DeepCheck:
    """Compares the good training images of a data set with each other, and finds those that do not
    look like the others. They may show defects, which spoil a memory bank.

    The patch features are those of the PatchCore baseline with the backbone autopatch_s. Each image
    is scored by a bank of other images, see `distances_to_others`; images that show the same
    picture or share a group are not in it. `highest_usual` sets the limit. More than 1000 images
    are divided at random into parts, and each image is compared with those of its part.

    Args:
        data: Folder in the MVTec-AD layout, folder of good images, or a data set.
        out: A PNG file for a picture of the unusual images with their anomaly maps, and of further
            ones with high scores if there are fewer than 6; at most 24. An existing file is
            replaced. None for no picture.
        group_regex: See `MVTecAD.scan`.
        groups: The `groups_csv` of `MVTecAD.scan`.
        reading: How to read the files. If it has no bit depth, the smallest depth that holds the
            values of the good images is used.
        device: "cpu", "cuda" or "cuda:<number>".
        progress: Called after every batch of images.

    Raises:
        InputError: The data set has another layout, an image cannot be read, there are fewer than
            8 images that are not related, or `out` cannot be written.
    """
    where = usable_device(device)
    if out is not None:
        require_writable_file(out)
    dataset = open_dataset(data, SplitRequest(group_regex=group_regex, groups=groups))
    samples = dataset.train
    files = [sample.image for sample in samples]
    reading, _ = decide(reading, files)
    related = related_images(
        image_digests(files, reading.exif), [sample.group for sample in samples]
    )
    if len(related) < _LEAST_IMAGES:
        raise InputError(
            f"{dataset.root}: {counted(len(related), 'good image')} that "
            f"{by_count(len(related), 'is', 'are')} not related, expected at least {_LEAST_IMAGES} "
            "to compare"
        )
    distances = _distances(files, related, reading, where, progress)
    upsampling = Upsampling(EVALUATION_SIZE)
    scores, medians = (
        torch.cat(values).numpy(force=True).astype(np.float64)
        for values in zip(
            *(
                (maps.amax(dim=1), maps.median(dim=1).values)
                for part in distances.split(64)
                for maps in (upsampling(part).flatten(1),)
            ),
            strict=True,
        )
    )
    scores = np.maximum(scores, np.finfo(np.float32).tiny)  # 0 if all pixels are alike
    middle = float(np.median(scores))
    limit = highest_usual(scores) / middle
    order = np.argsort(-scores, kind="stable").tolist()
    images = tuple(
        ComparedImage(
            samples[number],
            short_path(files[number], dataset.root),
            float(scores[number] / middle),
            bool(scores[number] / middle > limit),
        )
        for number in order
    )
    picture = None
    if out is not None:
        least, most = _SHOWN
        shown = min(max(sum(image.unusual for image in images), least), most, len(images))
        maps = upsampling(distances[order[:shown]]).numpy(force=True) / np.float32(middle)
        picture = write_unusual(
            [(image.name, read_image(image.sample.image, reading)) for image in images[:shown]],
            maps,
            out,
            scale=ColorScale.fit(medians / middle, limit),
            limit=limit,
        )
    return DeepCheck(images, limit, picture)


def _distances(
    files: Sequence[Path],
    related: Sequence[Sequence[int]],
    reading: Reading,
    device: torch.device,
    progress: Progress | None,
) -> torch.Tensor:
    """Squared distances of the patches of images to those of others, `[n, H, W]`."""
    supernet = load_supernet()
    architecture = patchcore_setting(supernet, images=len(files))
    reader = ImageReader(reading=reading)
    subnet = cut_subnet(supernet, architecture, files, device, reader=reader)
    aggregator = PatchAggregator.of(architecture.head, [level.channels for level in subnet.levels])
    parts = min(math.ceil(len(files) / _TOGETHER), len(related) // _LEAST_IMAGES)
    order = np.random.default_rng(_SEED).permutation(len(related)).tolist()
    found: torch.Tensor | None = None
    done = 0

    def told(step: str, of_part: int, _: int) -> None:
        if progress is not None:
            progress(step, done + of_part, len(files))

    for first in range(parts):
        sets = [related[number] for number in order[first::parts]]
        images = [image for members in sets for image in members]
        places = {image: place for place, image in enumerate(images)}
        rows, size = [], (0, 0)
        for maps in feature_maps(
            subnet,
            architecture.input,
            [files[image] for image in images],
            partial(told, "features"),
            reader=reader,
        ):
            size = grid(maps)
            rows.append(aggregator(maps).reshape(len(maps[0]), size[0] * size[1], -1))
        patches = torch.cat(rows)
        distances = distances_to_others(
            patches,
            patch_coresets(patches),
            [[places[image] for image in members] for members in sets],
            seed=_SEED,
            told=partial(told, "compare images"),
        )
        if found is None:
            found = distances.new_empty((len(files), *size))
        found[images] = distances.reshape(-1, *size)
        done += len(images)
    assert found is not None
    return found
