"""The interface of evaluators, and the result of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autopatch.detector import Architecture
from autopatch.search.constraints import Constraint
from autopatch.search.objectives import Objective


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating one architecture.

    Attributes:
        values: The value of each objective of the search, by name. Values are finite and below
            2**53 in magnitude, so that the record's float columns hold integers exactly.
        metrics: Finite metrics by name. Undefined metrics are left out.
        timings: Seconds per step, by name of the step.
        bounded: The value of each constraint of the search, by name of what it bounds.
        reuse: The share, 0 to 1, of the work that was in the cache, by name of the work.
        resampled: Finite values of metrics on resamples of the validation images, by name. The
            resamples are the same for all evaluations of a search.

    Raises:
        ValueError: If a value is outside its range. Raised inside an evaluator, it marks the
            candidate as failed, with this message as the reason.
    """

    values: Mapping[str, float]
    metrics: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    bounded: Mapping[str, float] = field(default_factory=dict)
    reuse: Mapping[str, float] = field(default_factory=dict)
    resampled: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in (self.values, self.metrics, self.timings, self.bounded, self.reuse):
            for name, value in group.items():
                if not math.isfinite(value):
                    raise ValueError(f"{name} is {value}, expected a finite value")
        for name, values in self.resampled.items():
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name} has resampled values that are not finite")
        for name, value in self.values.items():
            if not abs(value) < 2**53:
                raise ValueError(f"{name} is {value}, expected a magnitude below 2**53")

    def differences(self, other: Evaluation, name: str) -> tuple[float, ...] | None:
        """How far a metric lies above that of another evaluation of the same search, on each
        resample; None if it was not resampled."""
        own, others = self.resampled.get(name, ()), other.resampled.get(name, ())
        if not own or len(own) != len(others):
            return None
        return tuple(a - b for a, b in zip(own, others, strict=True))

    def losses(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """The losses for the given objectives, in their order."""
        return tuple(objective.loss(self.values[objective.name]) for objective in objectives)

    def excesses(self, constraints: Sequence[Constraint]) -> tuple[float, ...]:
        """The excess of each of the given constraints, in their order; see `Constraint.excess`."""
        return tuple(c.excess(self.bounded[c.name]) for c in constraints)

    def violation(self, constraints: Sequence[Constraint]) -> float:
        """The sum of the excesses of the violated constraints; 0 if all are met."""
        return sum(max(excess, 0.0) for excess in self.excesses(constraints))


class CallbackError(Exception):
    """The progress callback of an evaluator raised an exception; it ends the search.

    Attributes:
        error: That exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Evaluator(Protocol):
    """Builds and scores one candidate, independently of the rest of the search.

    If it raises an `Exception`, the candidate is recorded as failed and the search continues.
    `InputError`, and any other BaseException such as KeyboardInterrupt, ends the search. Failures
    of the machine may also end it, see `search`.
    """

    def __call__(self, architecture: Architecture, /) -> Evaluation: ...
