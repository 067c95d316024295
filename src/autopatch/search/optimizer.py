"""What the loop of the search asks of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Genome = tuple[int, ...]

# Objectives of a failed candidate: finite, so that they can be sorted, and worse than any other.
PENALTY = (1e30, 1e30)


class Optimizer(Protocol):
    """Proposes genomes, each once; the same results told give the same proposals."""

    def ask(self) -> list[Genome]:
        """The next genomes to evaluate, canonical and never asked before; empty at the end."""
        ...

    def tell(self, objectives: Sequence[tuple[float, float]], /) -> None:
        """Objectives of the genomes last asked, both minimized; `PENALTY` for a failed one."""
        ...
