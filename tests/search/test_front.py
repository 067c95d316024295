from __future__ import annotations

import numpy as np
import pytest

from autopatch.search import Evaluation, Front, Trial, non_dominated
from autopatch.supernet import Architecture

ARCHITECTURE = Architecture("timm:x", 224, (0,), (3,), 1000)


def trial(number: int, cost: int | None, rwap: float = 0.0) -> Trial:
    evaluation = None
    if cost is not None:
        evaluation = Evaluation(cost=cost, metrics={"rwAP": rwap})
    reason = None if evaluation else "RuntimeError: broken"
    return Trial(number, (1, 0), ARCHITECTURE, evaluation, reason, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_is_the_definition(seed: int) -> None:
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

    front = non_dominated([*trials, trial(40, None)])
    assert {t.number for t in front} == {i for i in range(40) if not dominated(i)}
    keys = [(t.evaluation.cost, t.number) for t in front if t.evaluation]
    assert keys == sorted(keys)


def test_failed_trials_make_no_front() -> None:
    assert non_dominated([trial(0, None)]) == ()


def test_pick_is_the_best_rwap_then_fewer_flops_then_first() -> None:
    trials = (trial(0, 10, 0.5), trial(1, 30, 0.9), trial(2, 20, 0.9), trial(3, 20, 0.9))
    assert Front(trials[:2], evaluated=4, failed=0).pick.number == 1
    assert Front(trials, evaluated=4, failed=0).pick.number == 2
