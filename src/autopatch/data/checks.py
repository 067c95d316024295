"""Decodes a whole data set and reports what is wrong with it."""

from __future__ import annotations

from autopatch.data.images import (
    EVALUATION_SIZE,
    in_threads,
    read_image,
    read_mask,
    resize_mask,
)
from autopatch.data.mvtec import MVTecAD, Sample
from autopatch.errors import InputError


def check(dataset: MVTecAD, *, evaluation_size: int = EVALUATION_SIZE) -> list[str]:
    """Decodes every image and mask.

    Args:
        dataset: What `MVTecAD.scan` found.
        evaluation_size: Size at which each mask must keep an anomalous pixel.

    Returns:
        One line a problem, in the order of the files; none if the data set is sound.
    """

    def problems(sample: Sample) -> list[str]:
        found: list[str] = []
        shape: tuple[int, int] | None = None
        try:
            shape = read_image(sample.path).size
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
    return [problem for found in in_threads(problems, samples) for problem in found]


def require_valid(dataset: MVTecAD, *, evaluation_size: int = EVALUATION_SIZE) -> None:
    """Refuses a data set in which `check` finds a problem.

    Raises:
        InputError: The first problem, and how many more there are.
    """
    problems = check(dataset, evaluation_size=evaluation_size)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
