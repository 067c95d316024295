"""What the loop of the search asks of an optimizer, and the optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from autopatch.registry import Registry
from autopatch.search.objectives import Objective
from autopatch.search.space import SearchSpace

Genome: TypeAlias = tuple[int, ...]

Losses: TypeAlias = tuple[float, ...]
"""The objectives of a candidate in the order of the search, all minimized."""


class Optimizer(Protocol):
    """Proposes genomes, each once; the same results told give the same proposals."""

    def ask(self) -> list[Genome]:
        """The next genomes to evaluate, canonical and never asked before; empty at the end."""
        ...

    def tell(self, losses: Sequence[Losses | None], /) -> None:
        """Losses of the genomes last asked, in their order; None for a failed one."""
        ...


class OptimizerFactory(Protocol):
    """Makes a fresh optimizer for a search.

    Args:
        space: The space to search.
        seed: The same seed and the same told losses give the same proposals.
        population: Proposals at a time, for an optimizer that has generations.
        initial: Canonical genomes to propose first.
        objectives: Those of the search.
    """

    def __call__(
        self,
        *,
        space: SearchSpace,
        seed: int,
        population: int,
        initial: Sequence[Genome],
        objectives: Sequence[Objective],
    ) -> Optimizer: ...


@dataclass(frozen=True)
class Sampler:
    """A way to search.

    Attributes:
        library: The package that proposes, such as "pymoo": with another version of it a search
            proposes other architectures, so the record names the version.
        make: Makes the optimizer.
    """

    library: str
    make: OptimizerFactory


SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "nsga2": "autopatch.search.nsga2:SAMPLER",
        "tpe": "autopatch.search.tpe:SAMPLER",
    },
)
"""Samplers by name. pymoo proposes by default; Optuna keeps the record of every search, and
proposes only with "tpe", the sampler of the published protocol."""
