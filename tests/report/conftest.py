from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import Sample, Split
from autopatch.report import Candidate
from autopatch.search.objectives import OBJECTIVES, Objective


@pytest.fixture
def bump() -> np.ndarray:
    """An anomaly map with one round peak of 10 at row 16, column 44 on a background of 1."""
    rows, columns = np.mgrid[:64, :64]
    distance = (rows - 16) ** 2 + (columns - 44) ** 2
    return (1 + 9 * np.exp(-distance / 40)).astype(np.float32)


@pytest.fixture
def grey_image() -> Image.Image:
    values = np.random.default_rng(0).integers(110, 140, (300, 400), dtype=np.uint8)
    return Image.fromarray(values).convert("RGB")


@pytest.fixture
def objectives() -> tuple[Objective, Objective]:
    return OBJECTIVES["total_flops"], OBJECTIVES["rwAP"]


@pytest.fixture
def make_candidates() -> Callable[..., list[Candidate]]:
    def make(count: int, *, front: int, test: bool = False) -> list[Candidate]:
        """The first `front` candidates are a front, the last of them is the pick."""
        candidates = []
        for i in range(count):
            value = 0.2 + 0.5 * i / count if i < front else 0.1
            candidates.append(
                Candidate(
                    number=i,
                    label=f"architecture {i}",
                    values={"total_flops": 1e9 + i * 1e9, "rwAP": value},
                    backbone_flops=5 * 10**8,
                    validation={"rwAP": value, "AP": 0.5},
                    on_front=i < front,
                    is_pick=i == front - 1,
                    test={"rwAP": 0.5 - 0.01 * i} if test and i < front else None,
                )
            )
        return candidates

    return make


@pytest.fixture
def split() -> Split:
    def samples(count: int, kind: str) -> tuple[Sample, ...]:
        mask = None if kind == "good" else Path("mask.png")
        return tuple(Sample(Path(f"{kind}/{i}.png"), kind, mask) for i in range(count))

    return Split(
        protocol="random",
        seed=3,
        shots=1,
        reserve=4,
        fit=samples(41, "good"),
        holdout=samples(17, "good"),
        calibration=samples(23, "good"),
        validation=samples(1, "crack") + samples(1, "<dent>"),
        reserved_unused=(),
        test=samples(9, "good") + samples(5, "crack") + samples(6, "<dent>"),
        notes=("left out 2 of the 83 images & more",),
    )
