from __future__ import annotations

import math

import pytest

from autopatch.detector import Architecture, Head, Input
from autopatch.errors import InputError
from autopatch.search import RULES, Evaluation, Front, Trial, resolve_objectives
from autopatch.supernet import Backbone

ARCHITECTURE = Architecture(Input(224), Backbone("timm:x", (0,)), Head((3,), 1000))
OBJECTIVES = resolve_objectives(["latency", "robust_rwAP"])


def trial(
    number: int,
    latency: float,
    robust: float,
    shots: float | None = None,
    *,
    resampled: tuple[float, ...] = (),
    auroc: tuple[float, float, float] | None = None,
) -> Trial:
    metrics = {"robust_rwAP": robust} | ({} if shots is None else {"rwAP": shots})
    if auroc is not None:
        names = ("robust_image_AUROC.low", "robust_image_AUROC", "robust_image_AUROC.high")
        metrics |= dict(zip(names, auroc, strict=True))
    values = {"latency": latency, "robust_rwAP": robust}
    evaluation = Evaluation(values, metrics, resampled={"robust_rwAP": resampled})
    return Trial(number, (number,), ARCHITECTURE, evaluation, None, 1.0)


def front(*trials: Trial, rule: str = "robust") -> Front:
    return Front(trials, OBJECTIVES, evaluated=9, failed=0, rule=RULES[rule])


def test_the_default_rule_ignores_what_is_best_on_the_shots() -> None:
    found = front(trial(0, 1.0, 0.4, 0.9), trial(1, 2.0, 0.6, 0.5), trial(2, 3.0, 0.6, 0.7))
    assert found.pick.number == 1  # the cheaper one of two
    assert found.pick_by(RULES["best"]).number == 0
    assert found.pick_by(RULES["robust"]).number == 1


def test_of_trials_that_tie_the_cheapest_is_picked() -> None:
    """The error is that of the difference: what all detectors gain on a resample does not count."""
    common = (0.5, 0.7, 0.6, 0.8)
    best = trial(2, 4.0, 0.65, resampled=common)

    def below(number: int, latency: float, least: float, most: float) -> Trial:
        losses = (least, most, least, most)
        values = tuple(c - loss for c, loss in zip(common, losses, strict=True))
        # The standard error is half of the range of the losses, and the loss is their middle.
        return trial(number, latency, 0.65 - (least + most) / 2, resampled=values)

    tied, told = below(1, 2.0, -0.03, 0.04), below(0, 1.0, -0.02, 0.04)
    assert front(told, tied, best).pick.number == 1
    assert front(told, best).pick.number == 2
    unpaired = trial(0, 1.0, 0.6499)
    assert front(unpaired, best).pick.number == 2


def test_a_clearly_worse_image_auroc_is_passed_over() -> None:
    poor = trial(0, 1.0, 0.7, auroc=(0.5, 0.6, 0.79))
    fair = trial(1, 2.0, 0.6, auroc=(0.7, 0.8, 0.9))
    good = trial(2, 3.0, 0.5, auroc=(0.8, 0.9, 1.0))
    assert front(poor, fair, good).pick.number == 1
    assert front(poor, fair).pick.number == 0


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
