"""Constraints of a search: bounds on measured numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autopatch.errors import InputError
from autopatch.search.objectives import OBJECTIVES, Objective


@dataclass(frozen=True)
class Constraint:
    """A bound on the value of an objective, whether or not the search optimizes it.

    Attributes:
        objective: What is bounded: from above if it is to be minimized, else from below.
        bound: The bound, in the units of the objective's values: seconds for "latency".

    Raises:
        InputError: The bound is not a finite number.
    """

    objective: Objective
    bound: float

    def __post_init__(self) -> None:
        number = isinstance(self.bound, int | float) and not isinstance(self.bound, bool)
        if not number or not math.isfinite(self.bound):
            raise InputError(
                f"the bound of {self.name!r} is {self.bound!r}, expected a finite number"
            )

    @property
    def name(self) -> str:
        """Name of the objective."""
        return self.objective.name

    def excess(self, value: float) -> float:
        """How far a value is outside the bound, relative to the bound: above 0 if it is violated,
        0 or less if it is met."""
        distance = self.bound - value if self.objective.is_maximized else value - self.bound
        return distance / (abs(self.bound) or 1.0)

    def describe(self, value: float | None = None) -> str:
        """The bound, and a value beside it: "latency 12.10 ms (at most 10.00 ms)"."""
        word = "at least" if self.objective.is_maximized else "at most"
        bound = f"{word} {self._displayed(self.bound)}"
        if value is None:
            return f"{self.objective.short_name} {bound}"
        return f"{self.objective.short_name} {self._displayed(value)} ({bound})"

    def _displayed(self, value: float) -> str:
        number, unit = self.objective.display(value), self.objective.unit
        digits = f"{number:.2f}" if number == 0 or abs(number) >= 0.01 else f"{number:.2g}"
        return f"{digits} {unit}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """The constraint as JSON values."""
        return {"objective": self.objective.to_json(), "bound": self.bound}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Constraint:
        """Reads what `to_json` wrote.

        Raises:
            InputError: A field is missing, unknown or out of its range.
        """
        if not isinstance(value, Mapping) or set(value) != {"objective", "bound"}:
            raise InputError(f"constraint: found {value!r}, expected an objective and a bound")
        return cls(Objective.from_json(value["objective"]), value["bound"])


def resolve_constraints(bounds: Mapping[str, float]) -> tuple[Constraint, ...]:
    """Constraints on registered objectives.

    Args:
        bounds: Bounds by name of the objective.

    Raises:
        InputError: A name is unknown, or a bound is not a finite number.
    """
    return tuple(Constraint(OBJECTIVES[name], bound) for name, bound in bounds.items())
