from __future__ import annotations

from dataclasses import replace

import pytest

from autopatch.detector import Architecture
from autopatch.kernels import least_search_work
from autopatch.search import LatencyTable, SearchSpace
from autopatch.search.latency import Case, LatencyLimit
from autopatch.supernet import Supernet


@pytest.fixture
def architecture(search_space: SearchSpace) -> Architecture:
    chosen = {gene.name: False if gene.is_level else gene.choices[0] for gene in search_space.genes}
    finest = next(gene.name for gene in search_space.genes if gene.is_level)
    return search_space.decode(search_space.genome({**chosen, finest: True, "bank_size": 40}))


def with_bank(architecture: Architecture, size: int | None) -> Architecture:
    return replace(architecture, head=replace(architecture.head, bank_size=size))


def least(supernet: Supernet, architecture: Architecture, rows: int) -> Case:
    features = sum(level.channels for level in supernet.levels(architecture.backbone))
    return Case(supernet, architecture, (least_search_work(rows, features),))


def test_an_architecture_is_within_its_own_latency(
    architecture: Architecture, table: LatencyTable, supernet: Supernet
) -> None:
    seconds = table.seconds(least(supernet, architecture, 40))
    at = LatencyLimit(table, supernet, images=4, seconds=seconds)
    below = LatencyLimit(table, supernet, images=4, seconds=seconds * 0.999)
    assert at.seconds(architecture) == seconds
    assert at(architecture)
    assert not below(architecture)


def test_a_bank_has_no_more_rows_than_there_are_patches(
    architecture: Architecture, table: LatencyTable, supernet: Supernet
) -> None:
    height, width = supernet.grid(architecture.backbone, architecture.input.size)
    limit = LatencyLimit(table, supernet, images=4, seconds=1.0)
    whole = with_bank(architecture, None)
    expected = table.seconds(least(supernet, whole, 4 * height * width))
    assert limit.seconds(whole) == expected
    assert limit.seconds(with_bank(architecture, 10**6)) == expected
    assert limit.seconds(with_bank(architecture, 4 * height * width)) == expected
