"""Trials of a search, and which of them are on its Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopatch.detector import Architecture
from autopatch.errors import MachineFailure
from autopatch.search.constraints import Constraint
from autopatch.search.evaluation import Evaluation
from autopatch.search.objectives import Objective


@dataclass(frozen=True)
class Trial:
    """One recorded evaluation.

    Attributes:
        number: Number in the study, from 0.
        genome: Canonical genome.
        architecture: The decoded genome.
        evaluation: The result; None if the candidate failed or is not finished.
        reason: Why there is no evaluation, in one line; None if there is one.
        duration: Seconds from proposal to result; 0 while the trial runs.
        place: Place of the genome among all proposals, from 0. Place and number differ after a
            trial was interrupted and its genome evaluated again.
        failure: How the machine failed; None if it did not.
        counts: Whether the trial is a valid result (an evaluation or a failure) of its
            architecture. False if the trial is unfinished or was interrupted, or if the machine
            failed and a resumed search evaluates the genome again.
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


def non_dominated(
    trials: Iterable[Trial],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
) -> tuple[Trial, ...]:
    """Evaluated trials that no other trial dominates.

    A trial dominates another if it is no worse in any objective and better in at least one.

    Of trials with equal objectives, only the first proposal is kept. Such trials can be the same
    detector, for example if their bank sizes all exceed the number of patches.

    Trials that violate a constraint are left out. If all do, only those that violate them least
    are compared.

    Args:
        trials: In any order.
        objectives: Objectives of the search, in order.
        constraints: Constraints of the search.

    Returns:
        The front, sorted by the first objective, then by the others, best first. With two
        objectives the second improves along the front.
    """
    violations = [
        (trial.evaluation.violation(constraints), trial.evaluation, trial)
        for trial in trials
        if trial.evaluation
    ]
    least = min((violation for violation, _, _ in violations), default=0.0)
    evaluated = [
        (evaluation.losses(objectives), trial.place, trial.number, trial)
        for violation, evaluation, trial in violations
        if violation == least
    ]
    evaluated.sort(key=lambda entry: entry[:3])
    # After sorting, only earlier trials can dominate a trial, and one of them is then on the front.
    front: list[tuple[tuple[float, ...], Trial]] = []
    for losses, _, _, trial in evaluated:
        if not any(_no_worse(kept, losses) for kept, _ in front):
            front.append((losses, trial))
    return tuple(trial for _, trial in front)


def none_feasible(trials: Iterable[Trial], constraints: Sequence[Constraint]) -> str | None:
    """That no evaluated trial meets all constraints, and which comes nearest, in one line; None if
    one does, or if none is evaluated."""
    evaluated = [trial for trial in trials if trial.evaluation]
    if not evaluated:
        return None

    def violation(trial: Trial) -> tuple[float, int, int]:
        assert trial.evaluation is not None
        return trial.evaluation.violation(constraints), trial.place, trial.number

    nearest = min(evaluated, key=violation)
    assert nearest.evaluation is not None
    if nearest.evaluation.violation(constraints) == 0:
        return None
    values = nearest.evaluation.bounded
    missed = [c.describe(values[c.name]) for c in constraints if c.excess(values[c.name]) > 0]
    return (
        f"none of {len(evaluated)} candidates meets the constraints; the nearest is trial "
        f"{nearest.number}: {', '.join(missed)}"
    )


def failed_candidates(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The last failure of each architecture that failed and has no evaluation, by number.

    Interrupted and unfinished trials are no failures.

    Args:
        trials: All trials by number.
    """
    trials = tuple(trials)
    evaluated = {trial.genome for trial in trials if trial.evaluation}
    last = {
        trial.genome: trial
        for trial in trials
        if trial.genome not in evaluated and (trial.counts or trial.failure)
    }
    return tuple(sorted(last.values(), key=lambda trial: trial.number))


def _no_worse(losses: Sequence[float], others: Sequence[float]) -> bool:
    return all(loss <= other for loss, other in zip(losses, others, strict=True))
