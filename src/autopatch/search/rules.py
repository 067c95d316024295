"""Rules that pick a detector from the front of a search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autopatch.errors import InputError
from autopatch.registry import Registry
from autopatch.search.objectives import Objective
from autopatch.search.trials import Trial

Choose: TypeAlias = Callable[[Sequence[Trial], Sequence[Objective], str], Trial]
"""Picks one of the trials of a front, given the objectives of the search and the name of the
quality: an objective or a metric that is to be high."""


AUROC = "robust_image_AUROC"
"""The metric that guards the default rule."""

TIE = 0.25
"""Two trials tie if their qualities differ by at most so many standard errors. With a quarter, the
lower one is the better one on about 40 % of the resamples."""


@dataclass(frozen=True)
class Rule:
    """How a search judges candidates, and which one it picks.

    Attributes:
        quality: Name of the objective that a search with this rule maximizes.
        choose: Picks a trial of a front.
        needs_cost: Whether the first objective must be minimized.
    """

    quality: str
    choose: Choose
    needs_cost: bool = False


def highest(trials: Sequence[Trial], objectives: Sequence[Objective], quality: str) -> Trial:
    """Picks the trial with the highest quality. Ties go to the best objectives, in order, then to
    the lowest number.

    Raises:
        InputError: The search did not measure the quality.
    """

    def order(trial: Trial) -> tuple[float, tuple[float, ...], int]:
        assert trial.evaluation is not None
        losses = trial.evaluation.losses(objectives)
        return -_quality(trial, objectives, quality), losses, trial.number

    return min(trials, key=order)


def cheapest_of_the_best(
    trials: Sequence[Trial], objectives: Sequence[Objective], quality: str
) -> Trial:
    """Picks the cheapest of the trials whose quality is as good as the highest one.

    That is, it is lower by at most `TIE` standard errors of the difference, which are the standard
    deviation of the difference over the resamples of the validation images. (Breiman et al.,
    Classification and Regression Trees, 1984, allow a whole one.) Trials are passed over if the 90
    % interval of their robust image AUROC lies below that of the highest one.

    Of equal costs, the trial with the better other objectives is picked, then the lowest number.

    Raises:
        InputError: The search did not measure the quality.
    """
    trials = _without_poor_auroc(trials)
    best = highest(trials, objectives, quality)

    def order(trial: Trial) -> tuple[tuple[float, ...], int]:
        assert trial.evaluation is not None
        return trial.evaluation.losses(objectives), trial.number

    most = _quality(best, objectives, quality)
    tied = [
        trial
        for trial in trials
        if most - _quality(trial, objectives, quality)
        <= TIE * _standard_error(best, trial, quality)
    ]
    return min(tied, key=order)


def knee(trials: Sequence[Trial], objectives: Sequence[Objective], quality: str) -> Trial:
    """Picks the trial at the knee of the front of cost and quality.

    The knee is the trial that lies farthest above the line from the cheapest trial to the one of
    highest quality; costs are compared by their logarithms. Without a trial above the line, it is
    the one of highest quality. For knees see Branke et al., Finding Knees in Multi-objective
    Optimization, PPSN 2004.

    Raises:
        InputError: The search did not measure the quality, or the first objective is not a cost
            above 0.
    """
    best = highest(trials, objectives, quality)
    cheapest = min(trials, key=lambda trial: (_log_cost(trial, objectives[0]), trial.number))
    width = _log_cost(best, objectives[0]) - _log_cost(cheapest, objectives[0])
    least = _quality(cheapest, objectives, quality)
    height = _quality(best, objectives, quality) - least
    if not (width > 0 and height > 0):
        return best

    def above(trial: Trial) -> float:
        along = _log_cost(trial, objectives[0]) - _log_cost(cheapest, objectives[0])
        return (_quality(trial, objectives, quality) - least) / height - along / width

    found = max(trials, key=lambda trial: (above(trial), -trial.number))
    return found if above(found) > 0 else best


def _standard_error(best: Trial, trial: Trial, quality: str) -> float:
    """Of the difference of two trials; 0 if the quality was not resampled."""
    assert best.evaluation is not None
    assert trial.evaluation is not None
    differences = best.evaluation.differences(trial.evaluation, quality)
    return 0.0 if differences is None else statistics.pstdev(differences)


def _without_poor_auroc(trials: Sequence[Trial]) -> Sequence[Trial]:
    """The trials without those whose images are ranked clearly worse than by the best one."""

    def metrics(trial: Trial) -> Mapping[str, float]:
        assert trial.evaluation is not None
        return trial.evaluation.metrics

    measured = [trial for trial in trials if f"{AUROC}.low" in metrics(trial)]
    if not measured:
        return trials
    best = max(measured, key=lambda trial: metrics(trial)[AUROC])
    least = metrics(best)[f"{AUROC}.low"]
    return [trial for trial in trials if metrics(trial).get(f"{AUROC}.high", least) >= least]


def _quality(trial: Trial, objectives: Sequence[Objective], name: str) -> float:
    """The quality of a trial; more is better."""
    assert trial.evaluation is not None
    for objective in objectives:
        if objective.name == name:
            return -objective.loss(trial.evaluation.values[name])
    if name not in trial.evaluation.metrics:
        raise InputError(
            f"`rule` needs {name}, but the search measured only "
            f"{', '.join(trial.evaluation.metrics) or 'its objectives'}"
        )
    return trial.evaluation.metrics[name]


def _log_cost(trial: Trial, cost: Objective) -> float:
    assert trial.evaluation is not None
    value = trial.evaluation.values[cost.name]
    if cost.is_maximized or not value > 0:
        raise InputError(
            f"`rule` is 'knee', but {cost.name}, the first objective, is {value:g}, expected a "
            "cost above 0"
        )
    return math.log(value)


ROBUST = Rule("robust_rwAP", cheapest_of_the_best)
BEST = Rule("rwAP", highest)
KNEE = Rule("robust_rwAP", knee, needs_cost=True)

RULES: Registry[Rule] = Registry(
    "rule",
    {
        "robust": "autopatch.search.rules:ROBUST",
        "best": "autopatch.search.rules:BEST",
        "knee": "autopatch.search.rules:KNEE",
    },
)
"""Rules by name. "robust" is the default, "best" is that of the paper: the highest rwAP on the
shots."""
