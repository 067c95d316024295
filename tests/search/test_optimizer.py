"""What all optimizers have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from autopatch.detector import Architecture
from autopatch.search import SAMPLERS, Evaluation, Optimizer, SearchSpace
from autopatch.search.space import Genome

from .conftest import OBJECTIVES, propose

Evaluate = Callable[[Architecture], Evaluation]


@pytest.fixture(params=["gp", "nsga2", "tpe"])
def sampler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(
    sampler: str, space: SearchSpace, *, seed: int = 0, initial: Sequence[Genome] = ()
) -> Optimizer:
    return SAMPLERS[sampler].make(
        space=space,
        seed=seed,
        population=6,
        initial=initial,
        objectives=OBJECTIVES,
        constraints=(),
    )


def test_proposes_valid_canonical_genomes_once(
    space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    genomes, _ = propose(make(sampler, space), space, evaluate, count=40)
    assert len(set(genomes)) == 40
    assert all(space.is_valid(genome) for genome in genomes)
    assert all(space.canonical(genome) == genome for genome in genomes)


def test_same_seed_same_genomes(space: SearchSpace, evaluate: Evaluate, sampler: str) -> None:
    def disturbing(architecture: Architecture) -> Evaluation:
        np.random.seed(0)  # what an evaluator draws must not matter
        return evaluate(architecture)

    first, _ = propose(make(sampler, space, seed=3), space, evaluate, count=30)
    second, _ = propose(make(sampler, space, seed=3), space, disturbing, count=30)
    other, _ = propose(make(sampler, space, seed=4), space, evaluate, count=30)
    assert first == second
    assert first != other


def test_initial_genomes_come_first(space: SearchSpace, evaluate: Evaluate, sampler: str) -> None:
    initial, _ = propose(make(sampler, space, seed=9), space, evaluate, count=3)
    optimizer = make(sampler, space, initial=[*initial, initial[0]])
    genomes, _ = propose(optimizer, space, evaluate, count=6)
    assert genomes[:3] == initial
    assert len(set(genomes)) == 6


def test_proposes_all_of_a_small_space_and_then_nothing(
    small_space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    optimizer = make(sampler, small_space)
    genomes, _ = propose(optimizer, small_space, evaluate, count=99)
    assert len(genomes) == len(set(genomes)) == small_space.size() == 16
    assert optimizer.ask() == []


def test_proposes_all_that_are_allowed_and_then_nothing(
    small_space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    allowed = replace(small_space, allows=lambda architecture: architecture.input.size == 64)
    optimizer = make(sampler, allowed)
    genomes, _ = propose(optimizer, allowed, evaluate, count=99)
    assert len(genomes) == len(set(genomes)) == 8
    assert all(map(allowed.is_allowed, genomes))
    assert optimizer.ask() == []


def test_finds_the_few_that_are_allowed(
    space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    rare = replace(
        space,
        allows=lambda a: (a.backbone.levels, a.head.patch_sizes) == ((0, 1, 2, 3), (1, 3, 5, 7)),
    )
    genomes, _ = propose(make(sampler, rare), rare, evaluate, count=5)
    assert len(set(genomes)) == 5
    assert all(map(rare.is_allowed, genomes))
