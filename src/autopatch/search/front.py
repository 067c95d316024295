"""Trials, the Pareto front of a search, and the trial picked from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopatch.detector import Architecture
from autopatch.errors import MachineFailure
from autopatch.search.evaluation import Evaluation
from autopatch.search.objectives import Objective


@dataclass(frozen=True)
class Trial:
    """One evaluation of the record.

    Attributes:
        number: Place in the study, from 0.
        genome: Canonical genome.
        architecture: The decoded genome.
        evaluation: The result; None if the candidate failed or is not finished.
        reason: Why there is no evaluation, in one line; None if there is one.
        duration: Seconds from proposal to result; 0 while the trial runs.
        place: Place of the genome among all proposals, from 0. It differs from the number once a
            trial was interrupted and its genome evaluated again.
        failure: How the machine failed; None if it did not.
        counts: Whether the trial is a result of its architecture: an evaluation or a failure. False
            if it is not finished, was interrupted, or failed because of the machine and a resumed
            search evaluates its genome again.
    """

    number: int
    genome: tuple[int, ...]
    architecture: Architecture
    evaluation: Evaluation | None
    reason: str | None
    duration: float
    place: int = 0
    failure: MachineFailure | None = None
    counts: bool = True


def non_dominated(trials: Iterable[Trial], objectives: Sequence[Objective]) -> tuple[Trial, ...]:
    """Evaluated trials that no other trial beats in one objective without losing in another.

    Of trials with equal objectives only the first proposal is kept. They are the same detector,
    for example with bank sizes that all exceed the number of patches.

    Args:
        trials: In any order.
        objectives: Those of the search, in its order.

    Returns:
        The front, sorted by the first objective, then by the others, best first. With two
        objectives the second improves along the front.
    """
    evaluated = [
        (trial.evaluation.losses(objectives), trial.place, trial.number, trial)
        for trial in trials
        if trial.evaluation
    ]
    evaluated.sort(key=lambda entry: entry[:3])
    # After sorting, a trial can only be dominated by earlier ones, and then by one of the front.
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
        trials: Non-dominated trials, in the order of `non_dominated`; at least one.
        objectives: Those of the search, in its order.
        evaluated: Number of distinct architectures evaluated, including failed ones.
        failed: Number of those that failed.
        note: Why the search ended before its number of evaluations, in one line; None if it did
            not.
    """

    trials: tuple[Trial, ...]
    objectives: tuple[Objective, ...]
    evaluated: int
    failed: int
    note: str | None = None

    @property
    def pick(self) -> Trial:
        """The trial that is best in the last objective. Ties are broken by the other objectives in
        their order, then by the lowest number."""
        return min(self.trials, key=self._by_last)

    def _by_last(self, trial: Trial) -> tuple[float, tuple[float, ...], int]:
        assert trial.evaluation is not None
        *others, last = trial.evaluation.losses(self.objectives)
        return last, tuple(others), trial.number
