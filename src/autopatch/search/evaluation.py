"""What the search asks of a candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from autopatch.supernet import Architecture

COSTS = {
    "total_flops": "total FLOPs (backbone and nearest neighbors)",
    "published_flops": "published FLOPs (backbone alone)",
}
"""What a search can have as its first objective, in words."""


@dataclass(frozen=True)
class Evaluation:
    """The measured worth of one architecture.

    Attributes:
        cost: FLOPs an image, those of `COSTS` that the search was planned with; below 2**53, so
            that the record's floating-point columns hold it exactly.
        metrics: Finite values by name; "rwAP" in [0, 1] on the validation part is the second
            objective. A metric that is undefined is left out.
        timings: Seconds by name of the step.

    Raises:
        ValueError: If a value is outside its range; inside an evaluator that makes the candidate
            a failed one, with this message as its reason.
    """

    cost: int
    metrics: Mapping[str, float]
    timings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.cost < 2**53:
            raise ValueError(f"cost is {self.cost}, expected 0 to 2**53 - 1")
        if "rwAP" not in self.metrics:
            raise ValueError(f"metrics are {sorted(self.metrics)}, expected rwAP among them")
        if not 0.0 <= self.metrics["rwAP"] <= 1.0:
            raise ValueError(f"rwAP is {self.metrics['rwAP']}, expected a value in [0, 1]")
        for name, value in (*self.metrics.items(), *self.timings.items()):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}, expected a finite value")

    @property
    def objectives(self) -> tuple[float, float]:
        """Both minimized: (cost, 1 - rwAP)."""
        return float(self.cost), 1.0 - self.metrics["rwAP"]


class Evaluator(Protocol):
    """Builds and scores one candidate; it knows nothing of the search.

    An exception marks the candidate as failed and the search goes on, but for `InputError`, which
    no other candidate would escape, and those outside `Exception` (such as KeyboardInterrupt).
    """

    def __call__(self, architecture: Architecture, /) -> Evaluation: ...
