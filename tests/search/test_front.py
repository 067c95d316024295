from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autopatch.detector import Architecture, Head, Input
from autopatch.search import (
    RULES,
    Evaluation,
    Front,
    Objective,
    Trial,
    failed_candidates,
    non_dominated,
)
from autopatch.supernet import Backbone

ARCHITECTURE = Architecture(Input(224), Backbone("timm:x", (0,)), Head((3,), 1000))


def trial(number: int, cost: float | None, rwap: float = 0.0, **others: float) -> Trial:
    evaluation = None
    if cost is not None:
        evaluation = Evaluation({"total_flops": cost, "rwAP": rwap} | others)
    reason = None if evaluation else "RuntimeError: broken"
    return Trial(number, (1, 0), ARCHITECTURE, evaluation, reason, 1.0)


@pytest.fixture
def three(objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
    return objectives[0], replace(objectives[0], name="time"), objectives[1]


@pytest.mark.parametrize("seed", range(5))
def test_is_the_definition(seed: int, objectives: tuple[Objective, ...]) -> None:
    random = np.random.default_rng(seed)
    # Few distinct values, so that ties of one and of both objectives occur.
    flops = random.integers(1, 8, 40)
    losses = random.integers(0, 8, 40) / 8
    trials = [trial(i, int(f), 1.0 - x) for i, (f, x) in enumerate(zip(flops, losses, strict=True))]

    def dominated(i: int) -> bool:
        no_worse = (flops <= flops[i]) & (losses <= losses[i])
        better = no_worse & ((flops < flops[i]) | (losses < losses[i]))
        equal_and_earlier = no_worse[:i] & (flops[:i] == flops[i]) & (losses[:i] == losses[i])
        return bool(better.any() or equal_and_earlier.any())

    front = non_dominated([*trials, trial(40, None)], objectives)
    assert {t.number for t in front} == {i for i in range(40) if not dominated(i)}
    keys = [(t.evaluation.values["total_flops"], t.number) for t in front if t.evaluation]
    assert keys == sorted(keys)
    assert non_dominated(trials[::-1], objectives) == front


@pytest.mark.parametrize("seed", range(5))
def test_is_the_definition_with_three_objectives(seed: int, three: tuple[Objective, ...]) -> None:
    values = np.random.default_rng(seed).integers(0, 8, (60, 3)) / 8
    trials = [trial(i, cost, rwap, time=time) for i, (cost, time, rwap) in enumerate(values)]
    losses = values * [1, 1, -1]

    def dominated(i: int) -> bool:
        no_worse = (losses <= losses[i]).all(1)
        equal = (losses == losses[i]).all(1)
        return bool((no_worse & ~equal).any() or equal[:i].any())

    front = non_dominated(trials, three)
    assert {t.number for t in front} == {i for i in range(60) if not dominated(i)}
    assert len(front) > 3
    best = max(values[:, 2])
    least = min(cost for cost, _, rwap in values if rwap == best)
    picked = Front(front, three, evaluated=60, failed=0, rule=RULES["best"]).pick
    assert picked.evaluation == Evaluation(
        {
            "total_flops": least,
            "time": min(t for cost, t, rwap in values if (cost, rwap) == (least, best)),
            "rwAP": best,
        }
    )


def test_of_equal_trials_the_first_proposed_stands_for_all(
    objectives: tuple[Objective, ...],
) -> None:
    again = replace(trial(9, 10, 0.5), place=2)  # interrupted at first
    later = replace(trial(3, 10, 0.5), place=3)
    assert non_dominated([later, again], objectives) == (again,)
    assert non_dominated([trial(4, 10, 0.5), trial(3, 10, 0.5)], objectives)[0].number == 3


def test_failed_trials_make_no_front(objectives: tuple[Objective, ...]) -> None:
    assert non_dominated([trial(0, None)], objectives) == ()


def test_pick_is_the_best_rwap_then_fewer_flops_then_first(
    objectives: tuple[Objective, ...],
) -> None:
    trials = (trial(0, 10, 0.5), trial(1, 30, 0.9), trial(2, 20, 0.9), trial(3, 20, 0.9))
    first = Front(trials[:2], objectives, evaluated=4, failed=0, rule=RULES["best"])
    assert first.pick.number == 1
    assert replace(first, trials=trials).pick.number == 2


def test_failed_candidates() -> None:
    retried, failed_twice, interrupted, broken = ((gene, 0) for gene in range(4))
    machine = {"failure": "memory", "counts": False}
    trials = [
        replace(trial(0, None), genome=retried, **machine),
        replace(trial(1, None), genome=failed_twice, **machine),
        replace(trial(2, None), genome=broken, failure="device", counts=False),
        replace(trial(3, None), genome=interrupted, reason="interrupted", counts=False),
        replace(trial(4, 1.0), genome=retried),
        replace(trial(5, None), genome=failed_twice),
        replace(trial(6, None), genome=(4, 0)),
    ]
    assert [failed.number for failed in failed_candidates(trials)] == [2, 5, 6]
    assert failed_candidates([]) == ()
