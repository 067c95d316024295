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
class Findings:
    """What a look at every image and mask of a data set found.

    Attributes:
        problems: What makes the data set unusable, one line each, in the order of the files.
        warnings: What may give wrong results, one line each, with the files and what to do.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedFolder:
    """A folder of images and what was found in it.

    Attributes:
        findings: Problems and warnings.
        counts: Number of images of each part, such as "test/good".
        groups: Number of groups of images, 0 where none are known.
    """

    findings: Findings
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
    return CheckedFolder(check(dataset, progress=progress), counts, len(known))


def check(
    dataset: Dataset,
    *,
    evaluation_size: int = EVALUATION_SIZE,
    progress: Progress | None = None,
) -> Findings:
    """Decodes every image and mask, and compares types, masks and roles.

    Every image to fit on is good, every anomalous image has a mask and no good one has.

    Args:
        dataset: The images, as tuples or lists.
        evaluation_size: Size at which each mask must keep an anomalous pixel.
        progress: Told of every image.
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
    found = [problem for part in in_threads(problems, samples, told) for problem in part]
    return Findings(problems=tuple(found), warnings=tuple(dataset.notes))


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
) -> tuple[str, ...]:
    """Refuses a data set in which `check` finds a problem.

    Returns:
        The warnings of `check`.

    Raises:
        InputError: The first problem, and how many more there are.
    """
    findings = check(dataset, evaluation_size=evaluation_size, progress=progress)
    problems = findings.problems
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return findings.warnings
