"""The Pareto front of a search and the detector picked from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autopatch.search.evaluation import Evaluation
from autopatch.supernet import Architecture


@dataclass(frozen=True)
class Trial:
    """One evaluation of the record.

    Attributes:
        number: Place in the study, from 0.
        genome: Canonical genome.
        architecture: The genome decoded.
        evaluation: None where the candidate failed or is not finished.
        reason: One line why there is no evaluation, None where there is one.
        duration: Seconds from proposal to result, 0 while it runs.
    """

    number: int
    genome: tuple[int, ...]
    architecture: Architecture
    evaluation: Evaluation | None
    reason: str | None
    duration: float


def non_dominated(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Evaluated trials that no other trial beats in one objective without losing in the other.

    Of trials with equal objectives the first stands for all: they are one detector in several
    guises, such as bank sizes that all exceed the number of patches there are.

    Returns:
        The front by ascending cost, then trial number; so rwAP ascends as well.
    """
    evaluated = [(trial.evaluation.objectives, trial) for trial in trials if trial.evaluation]
    evaluated.sort(key=lambda pair: (pair[0], pair[1].number))
    front: list[Trial] = []
    least_loss = float("inf")
    for objectives, trial in evaluated:
        if objectives[1] < least_loss:
            front.append(trial)
            least_loss = objectives[1]
    return tuple(front)


@dataclass(frozen=True)
class Front:
    """The result of a search.

    Attributes:
        trials: Non-dominated trials by ascending cost; at least one.
        evaluated: Distinct architectures evaluated, failed ones counted.
        failed: Those of them that failed.
        note: One line why the search ended before its number of evaluations, None if it did not.
    """

    trials: tuple[Trial, ...]
    evaluated: int
    failed: int
    note: str | None = None

    @property
    def pick(self) -> Trial:
        """The trial of highest validation rwAP; on ties less cost, then the lowest number."""
        return min(self.trials, key=_by_rwap)


def _by_rwap(trial: Trial) -> tuple[float, float, int]:
    assert trial.evaluation is not None
    flops, loss = trial.evaluation.objectives
    return loss, flops, trial.number
