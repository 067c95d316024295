"""A clock that needs no time, and a small supernet with its space and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.search import LatencyTable, SearchSpace, compose_space, measure_table
from autopatch.supernet import Supernet, load_supernet


class Ticks:
    """A clock that goes on by a millisecond whenever it is read."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 1e-3
        return self.time

    def reference(self) -> float:
        return 1.0


@pytest.fixture(scope="session")
def supernet() -> Supernet:
    return load_supernet("timm:test_efficientnet", "random")


@pytest.fixture(scope="session")
def search_space(supernet: Supernet) -> SearchSpace:
    choices = {"image_size": (64, 96), "patch_size": (1, 3), "bank_size": (10, 40)}
    return compose_space(supernet, choices=choices)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="session")
def table(supernet: Supernet, search_space: SearchSpace, images: list[Path]) -> LatencyTable:
    """A table in which every part takes a millisecond."""
    return measure_table(
        supernet, search_space, good=images[:4], queries=images[4:], check=3, clock=Ticks()
    )
