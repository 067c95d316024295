"""Decodes a whole data set and reports what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

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
    groups: StrPath | None = None,
    progress: Progress | None = None,
) -> CheckedFolder:
    """Decodes every image and mask of a folder in the MVTec-AD layout.

    Args:
        data: The folder.
        group_regex: See `MVTecAD.scan`.
        groups: The `groups_csv` of `MVTecAD.scan`.
        progress: Told of every image.

    Raises:
        InputError: The folder does not have this layout, or the groups cannot be read.
    """
    dataset = MVTecAD.scan(data, group_regex=group_regex, groups_csv=groups)
    counts = {"train/good": len(dataset.train)}
    for kind in (GOOD, *dataset.types):
        counts[f"test/{kind}"] = sum(sample.type == kind for sample in dataset.test)
    known = {sample.group for sample in (*dataset.train, *dataset.test)} - {None}
    return CheckedFolder(tuple(check(dataset, progress=progress)), counts, len(known))


def check(
    dataset: Dataset,
    *,
    evaluation_size: int = EVALUATION_SIZE,
    progress: Progress | None = None,
) -> list[str]:
    """Decodes every image and mask, and compares types, masks and roles.

    Every image to fit on is good, every anomalous image has a mask and no good one has.

    Args:
        dataset: The images, as tuples or lists.
        evaluation_size: Size at which each mask must keep an anomalous pixel.
        progress: Told of every image.

    Returns:
        One line a problem, in the order of the files; none if the data set is sound.
    """

    def problems(part: tuple[Sample, bool]) -> list[str]:
        sample, is_train = part
        found: list[str] = []
        misplaced = _misplaced(sample, is_train)
        if misplaced is not None:
            found.append(misplaced)
        shape: tuple[int, int] | None = None
        try:
            shape = read_image(sample.image).size
        except InputError as error:
            found.append(str(error))
        if sample.mask is None or not sample.label:
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

    samples = [
        *((sample, True) for sample in dataset.train),
        *((sample, False) for sample in dataset.test),
    ]
    told = None if progress is None else partial(progress, "read images")
    return [problem for found in in_threads(problems, samples, told) for problem in found]


def _misplaced(sample: Sample, is_train: bool) -> str | None:
    """What is wrong with the type, the mask or the role of an image, whatever the files hold."""
    if is_train and sample.label:
        return f"{sample.image}: an image of the type {sample.type!r} in train, expected good ones"
    if sample.label and sample.mask is None:
        return f"{sample.image}: an image of the type {sample.type!r} without a mask, expected one"
    if not sample.label and sample.mask is not None:
        return f"{sample.image}: a good image with the mask {sample.mask}, expected none"
    return None


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
