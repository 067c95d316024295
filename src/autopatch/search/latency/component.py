"""The parts of a detector's latency, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from autopatch.detector import Architecture, FittedHead
from autopatch.registry import Registry
from autopatch.search.latency.timing import Work
from autopatch.supernet import Level, Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace


Key = tuple[str, ...]
"""What a work is, such as set of levels, patch size, rows and queries."""


@dataclass(frozen=True)
class Case:
    """A candidate whose latency is read.

    Attributes:
        supernet: Its supernet.
        architecture: Its architecture.
        banks: Number of rows of each bank that its patches are searched in, the memory bank first.
        batch: Images per batch.
    """

    supernet: Supernet
    architecture: Architecture
    banks: tuple[int, ...]
    batch: int = 1

    @classmethod
    def of(cls, supernet: Supernet, architecture: Architecture, head: FittedHead) -> Case:
        """The case of a fitted candidate."""
        banks = (len(head.memory), len(head.defects))
        return cls(supernet, architecture, tuple(rows for rows in banks if rows))

    @property
    def size(self) -> int:
        """Image size in pixels."""
        return self.architecture.input.size

    @property
    def levels(self) -> tuple[Level, ...]:
        """The selected levels."""
        return self.supernet.levels(self.architecture.backbone)

    @property
    def queries(self) -> int:
        """Patches per batch."""
        grid = self.supernet.grid(self.architecture.backbone, self.size)
        return self.batch * math.prod(grid)


class Component(Protocol):
    """A part of a detector's latency."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """What to time, each with a key of its own."""
        ...

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """What `seconds` needs, as JSON values.

        Args:
            timed: The keys of `works`, and the median seconds of the parts of each work.
        """
        ...

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """Raises InputError unless the values cover a search space."""
        ...

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """Seconds per batch of a candidate.

        Raises:
            InputError: The values do not cover it.
        """
        ...


COMPONENTS: Registry[Component] = Registry(
    "component of the latency",
    {
        "backbone": "autopatch.search.latency.backbone:COMPONENT",
        "aggregation": "autopatch.search.latency.aggregation:COMPONENT",
        "nearest_neighbors": "autopatch.search.latency.neighbors:COMPONENT",
        "steps": "autopatch.search.latency.steps:COMPONENT",
        "upsampling": "autopatch.search.latency.upsampling:COMPONENT",
    },
)
"""Components by name. A candidate's latency is the sum over all that are in a table."""


def whole(run: Callable[[], object]) -> Work:
    """A work that is timed as a whole."""

    def work() -> None:
        with torch.inference_mode():
            run()

    return work
