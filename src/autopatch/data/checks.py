"""Decodes a whole data set and reports what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from autopatch.data.duplicates import Duplicates, find_duplicates, picture_digest
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
        duplicates: Images that show the same picture; `problems` and `warnings` tell of them.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: Duplicates = field(default_factory=Duplicates)


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
    allow_contradictions: bool = False,
    progress: Progress | None = None,
) -> Findings:
    """Decodes every image and mask, and compares types, masks, roles and pictures.

    Every image to fit on is good, every anomalous image has a mask and no good one has, and no good
    image shows the same picture as an anomalous one.

    Args:
        dataset: The images, as tuples or lists.
        evaluation_size: Size at which each mask must keep an anomalous pixel.
        allow_contradictions: Whether a picture that is both good and anomalous is a warning, for
            published splits, and no problem.
        progress: Told of every image.
    """

    digests: dict[Path, bytes] = {}

    def problems(part: tuple[Sample, bool]) -> list[str]:
        sample, is_train = part
        found: list[str] = []
        misplaced = _misplaced(sample, is_train)
        if misplaced is not None:
            found.append(misplaced)
        shape: tuple[int, int] | None = None
        try:
            image = read_image(sample.image)
            shape = image.size
            digests[sample.image] = picture_digest(np.asarray(image))
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
    duplicates = find_duplicates(dataset, digests)
    warnings = (*dataset.notes, *duplicates.warnings)
    if allow_contradictions:
        warnings += duplicates.contradictions
    else:
        found += duplicates.contradictions
    return Findings(tuple(found), warnings, duplicates)


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
    allow_contradictions: bool = False,
    progress: Progress | None = None,
) -> Findings:
    """Refuses a data set in which `check` finds a problem.

    Returns:
        What `check` found, without problems.

    Raises:
        InputError: The first problem, and how many more there are.
    """
    findings = check(
        dataset,
        evaluation_size=evaluation_size,
        allow_contradictions=allow_contradictions,
        progress=progress,
    )
    problems = findings.problems
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return findings
