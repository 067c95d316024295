"""Decodes a whole data set and reports what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autopatch.data.images import (
    EVALUATION_SIZE,
    in_threads,
    read_image,
    read_mask,
    resize_mask,
)
from autopatch.data.mvtec import MVTecAD
from autopatch.data.samples import GOOD, Dataset, Sample
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.progress import Progress


@dataclass(frozen=True)
class CheckedFolder:
    """A folder of images and what is wrong with it.

    Attributes:
        problems: One line each.
        counts: Number of images of each part, such as "test/good".
        groups: Number of groups of images, 0 where none are known.
    """

    problems: tuple[str, ...]
    counts: Mapping[str, int]
    groups: int


def check_folder(
    data: StrPath,
    *,
    group_regex: str | None = None,
    groups_csv: StrPath | None = None,
    progress: Progress | None = None,
) -> CheckedFolder:
    """Decodes every image and mask of a folder in the MVTec-AD layout.

    Args:
        data: The folder.
        group_regex: See `MVTecAD.scan`.
        groups_csv: See `MVTecAD.scan`.
        progress: Told of every image.

    Raises:
        InputError: The folder does not have this layout, or the groups cannot be read.
    """
    dataset = MVTecAD.scan(Path(data), group_regex=group_regex, groups_csv=groups_csv)
    counts = {"train/good": len(dataset.train)}
    for kind in (GOOD, *dataset.types):
        counts[f"test/{kind}"] = sum(sample.type == kind for sample in dataset.test)
    groups = {sample.group for sample in (*dataset.train, *dataset.test)} - {None}
    return CheckedFolder(tuple(check(dataset, progress=progress)), counts, len(groups))


def check(
    dataset: Dataset,
    *,
    evaluation_size: int = EVALUATION_SIZE,
    progress: Progress | None = None,
) -> list[str]:
    """Decodes every image and mask.

    Args:
        dataset: Its `train` and `test` images.
        evaluation_size: Size at which each mask must keep an anomalous pixel.
        progress: Told of every image.

    Returns:
        One line a problem, in the order of the files; none if the data set is sound.
    """

    def problems(sample: Sample) -> list[str]:
        found: list[str] = []
        shape: tuple[int, int] | None = None
        try:
            shape = read_image(sample.image).size
        except InputError as error:
            found.append(str(error))
        if sample.mask is None:
            return found
        try:
            mask = read_mask(sample.mask)
            if shape is not None and mask.size != shape:
                raise InputError(
                    f"{sample.mask}: the mask is {mask.width} x {mask.height} pixels, "
                    f"expected {shape[0]} x {shape[1]} as its image"
                )
            resize_mask(mask, evaluation_size, sample)
        except InputError as error:
            found.append(str(error))
        return found

    samples = dataset.train + dataset.test
    told = None if progress is None else partial(progress, "read images")
    return [problem for found in in_threads(problems, samples, told) for problem in found]


def require_valid(
    dataset: Dataset,
    *,
    evaluation_size: int = EVALUATION_SIZE,
    progress: Progress | None = None,
) -> None:
    """Refuses a data set in which `check` finds a problem.

    Raises:
        InputError: The first problem, and how many more there are.
    """
    problems = check(dataset, evaluation_size=evaluation_size, progress=progress)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
