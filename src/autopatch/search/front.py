"""The Pareto front of a search and the detector picked from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopatch.detector import Architecture
from autopatch.search.evaluation import Evaluation
from autopatch.search.objectives import Objective


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
        place: Place of the genome among all that were proposed, from 0. The number is another where
            a trial was interrupted and evaluated again.
    """

    number: int
    genome: tuple[int, ...]
    architecture: Architecture
    evaluation: Evaluation | None
    reason: str | None
    duration: float
    place: int = 0


def non_dominated(trials: Iterable[Trial], objectives: Sequence[Objective]) -> tuple[Trial, ...]:
    """Evaluated trials that no other trial beats in one objective without losing in another.

    Of trials with equal objectives the one proposed first stands for all: they are one detector in
    several guises, such as bank sizes that all exceed the number of patches there are.

    Args:
        trials: In any order.
        objectives: Those of the search, in its order.

    Returns:
        The front in order of the first objective, the best first, then of the others. Where there
        are two, the second gets better along it.
    """
    evaluated = [
        (trial.evaluation.losses(objectives), trial.place, trial.number, trial)
        for trial in trials
        if trial.evaluation
    ]
    evaluated.sort(key=lambda entry: entry[:3])
    # A trial is dominated by none that comes after it, and by one of the front if by any.
    front: list[tuple[tuple[float, ...], Trial]] = []
    for losses, _, _, trial in evaluated:
        if not any(_no_worse(kept, losses) for kept, _ in front):
            front.append((losses, trial))
    return tuple(trial for _, trial in front)


def _no_worse(losses: Sequence[float], others: Sequence[float]) -> bool:
    return all(loss <= other for loss, other in zip(losses, others, strict=True))


@dataclass(frozen=True)
class Front:
    """The result of a search.

    Attributes:
        trials: Non-dominated trials, as `non_dominated` orders them; at least one.
        objectives: Those of the search, in its order.
        evaluated: Distinct architectures evaluated, failed ones counted.
        failed: Those of them that failed.
        note: One line why the search ended before its number of evaluations, None if it did not.
    """

    trials: tuple[Trial, ...]
    objectives: tuple[Objective, ...]
    evaluated: int
    failed: int
    note: str | None = None

    @property
    def pick(self) -> Trial:
        """The trial that is best in the last objective; on ties the best in the others, in their
        order, then the lowest number."""
        return min(self.trials, key=self._by_last)

    def _by_last(self, trial: Trial) -> tuple[float, tuple[float, ...], int]:
        assert trial.evaluation is not None
        *others, last = trial.evaluation.losses(self.objectives)
        return last, tuple(others), trial.number
