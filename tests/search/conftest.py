"""Search spaces and an evaluator that costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from autopatch.detector import Architecture
from autopatch.genes import Gene
from autopatch.search import (
    Evaluation,
    Objective,
    Optimizer,
    Score,
    SearchSpace,
    resolve_objectives,
)
from autopatch.search.space import Genome

OBJECTIVES = resolve_objectives(["total_flops", "rwAP"])
"""The objectives that `evaluate` measures."""


def propose(
    optimizer: Optimizer,
    space: SearchSpace,
    evaluate: Callable[[Architecture], Evaluation],
    *,
    count: int,
) -> tuple[list[Genome], list[tuple[float, ...]]]:
    """The first `count` genomes that an optimizer proposes, or all there are, and their losses."""
    genomes: list[Genome] = []
    losses: list[tuple[float, ...]] = []
    while len(genomes) < count and (asked := optimizer.ask()):
        told = [evaluate(space.decode(genome)).losses(OBJECTIVES) for genome in asked]
        optimizer.tell([Score(each) for each in told])
        genomes += asked
        losses += told
    return genomes[:count], losses[:count]


def space_of(
    levels: int,
    *,
    image_sizes: tuple[int, ...],
    patch_sizes: tuple[int, ...],
    bank_sizes: tuple[int | None, ...],
) -> SearchSpace:
    genes = [
        Gene("image_size", image_sizes, "input", "image_size"),
        Gene("bank_size", bank_sizes, "head", "bank_size"),
    ]
    for level in range(levels):
        use = f"use_level_{level}"
        name = f"{{}}_{level}"
        genes.append(Gene(use, (False, True), "backbone", "level", level, per_level=name))
        genes.append(
            Gene(f"patch_size_{level}", patch_sizes, "head", "patch_size", level, active_if=(use,))
        )
    return SearchSpace("timm:x", tuple(genes))


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    """9,360 architectures."""
    return space_of(
        4,
        image_sizes=(160, 224, 288),
        patch_sizes=(1, 3, 5, 7),
        bank_sizes=(500, 1000, 2000, 5000, None),
    )


@pytest.fixture(scope="session")
def small_space() -> SearchSpace:
    """16 architectures: 8 ways to use two levels, 2 image sizes."""
    return space_of(2, image_sizes=(32, 64), patch_sizes=(1, 3), bank_sizes=(10,))


@pytest.fixture(scope="session")
def objectives() -> tuple[Objective, ...]:
    """See `OBJECTIVES`."""
    return OBJECTIVES


@pytest.fixture(scope="session")
def evaluate() -> Callable[[Architecture], Evaluation]:
    """A made-up trade-off: fine levels cost much and score well, with a best patch size each."""

    def evaluation(architecture: Architecture) -> Evaluation:
        worth = (0.55, 0.7, 0.5, 0.2)
        levels, size = architecture.backbone.levels, architecture.input.size
        score = 0.0
        for level, patch_size in zip(levels, architecture.head.patch_sizes, strict=True):
            score += worth[level] * (1 - 0.1 * abs(patch_size - 3 - level % 2 * 2))
        score /= 0.6 + 0.7 * len(levels)
        bank_size = architecture.head.bank_size or 20_000
        score += 0.05 * math.log10(bank_size / 500) - abs(size - 224) / 1000
        positions = (size // (4 << levels[0])) ** 2
        flops = 2 * positions * bank_size * 24 * (1 + sum(levels))
        rwap = min(max(score, 0.0), 1.0)
        return Evaluation(
            values={"total_flops": flops, "rwAP": rwap},
            metrics={"rwAP": rwap, "AP": min(max(score / 2, 0.0), 1.0)},
            timings={"fit": 0.25},
        )

    return evaluation
