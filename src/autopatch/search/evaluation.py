"""The interface of evaluators, and the result of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autopatch.detector import Architecture
from autopatch.search.objectives import Objective


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating one architecture.

    Attributes:
        values: The value of each objective of the search, by name. Values are finite and below
            2**53 in magnitude, so that the record's float columns hold integers exactly.
        metrics: Finite metrics by name. Undefined metrics are left out.
        timings: Seconds per step, by name of the step.

    Raises:
        ValueError: If a value is outside its range. Raised inside an evaluator, it marks the
            candidate as failed, with this message as the reason.
    """

    values: Mapping[str, float]
    metrics: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in (self.values, self.metrics, self.timings):
            for name, value in group.items():
                if not math.isfinite(value):
                    raise ValueError(f"{name} is {value}, expected a finite value")
        for name, value in self.values.items():
            if not abs(value) < 2**53:
                raise ValueError(f"{name} is {value}, expected a magnitude below 2**53")

    def losses(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """The losses for the given objectives, in their order."""
        return tuple(objective.loss(self.values[objective.name]) for objective in objectives)


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
