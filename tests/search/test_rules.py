from __future__ import annotations

import math

import pytest

from autopatch.detector import Architecture, Head, Input
from autopatch.errors import InputError
from autopatch.search import RULES, Evaluation, Front, Trial, resolve_objectives
from autopatch.supernet import Backbone

ARCHITECTURE = Architecture(Input(224), Backbone("timm:x", (0,)), Head((3,), 1000))
OBJECTIVES = resolve_objectives(["latency", "robust_rwAP"])


def trial(number: int, latency: float, robust: float, shots: float | None = None) -> Trial:
    metrics = {"robust_rwAP": robust} | ({} if shots is None else {"rwAP": shots})
    evaluation = Evaluation({"latency": latency, "robust_rwAP": robust}, metrics)
    return Trial(number, (number,), ARCHITECTURE, evaluation, None, 1.0)


def front(*trials: Trial, rule: str = "robust") -> Front:
    return Front(trials, OBJECTIVES, evaluated=9, failed=0, rule=RULES[rule])


def test_the_default_rule_ignores_what_is_best_on_the_shots() -> None:
    found = front(trial(0, 1.0, 0.4, 0.9), trial(1, 2.0, 0.6, 0.5), trial(2, 3.0, 0.6, 0.7))
    assert found.pick.number == 1  # the cheaper one of two
    assert found.pick_by(RULES["best"]).number == 0
    assert found.pick_by(RULES["robust"]).number == 1


def test_the_knee_gains_most_for_its_cost() -> None:
    trials = [trial(0, 1.0, 0.2), trial(1, 2.0, 0.6), trial(2, 4.0, 0.65), trial(3, 16.0, 0.7)]
    assert front(*trials, rule="knee").pick.number == 1
    # Above the line from the cheapest to the best, over the logarithm of the cost.
    heights = [
        (t.evaluation.values["robust_rwAP"] - 0.2) / 0.5
        - math.log(t.evaluation.values["latency"]) / math.log(16)
        for t in trials
    ]
    assert heights.index(max(heights)) == 1


def test_without_a_knee_the_best_is_picked() -> None:
    assert front(trial(0, 1.0, 0.2), rule="knee").pick.number == 0
    below = [trial(0, 1.0, 0.2), trial(1, 4.0, 0.21), trial(2, 5.0, 0.9)]
    assert front(*below, rule="knee").pick.number == 2


def test_a_rule_needs_what_it_compares() -> None:
    with pytest.raises(InputError, match=r"`rule` needs rwAP, but the search measured only robus"):
        front(trial(0, 1.0, 0.5)).pick_by(RULES["best"])
    with pytest.raises(
        InputError, match="rule is 'luck', expected one of 'robust', 'best', 'knee'"
    ):
        RULES["luck"]
    quality = resolve_objectives(["robust_rwAP"])
    only = Front((trial(0, 1.0, 0.1), trial(1, 1.0, 0.5)), quality, 2, 0, RULES["knee"])
    with pytest.raises(InputError, match="'knee', but robust_rwAP, the first objective"):
        _ = only.pick
