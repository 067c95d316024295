"""The interface of optimizers, and the registry of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from autopatch.registry import Registry
from autopatch.search.constraints import Constraint
from autopatch.search.objectives import Objective
from autopatch.search.space import Genome, SearchSpace

Losses: TypeAlias = tuple[float, ...]
"""The losses of a candidate, to be minimized, in the order of the search's objectives."""

Excesses: TypeAlias = tuple[float, ...]
"""How far a candidate is outside each constraint, see `Constraint.excess`; above 0 is a
violation."""


@dataclass(frozen=True)
class Score:
    """What an optimizer learns about a candidate.

    Attributes:
        losses: Its losses.
        excesses: Its excesses, in the order of the search's constraints.
    """

    losses: Losses
    excesses: Excesses = ()


class Optimizer(Protocol):
    """Proposes each genome at most once. Proposals depend only on the scores it receives."""

    def ask(self) -> list[Genome]:
        """The next genomes to evaluate: canonical, not proposed before; empty at the end."""
        ...

    def tell(self, scores: Sequence[Score | None], /) -> None:
        """Takes the scores of the last proposed genomes, in order; None for a failed candidate."""
        ...


class OptimizerFactory(Protocol):
    """Makes a new optimizer for a search.

    Args:
        space: The space to search.
        seed: The same seed and the same scores give the same proposals.
        population: Number of proposals per generation; unused by optimizers without generations.
        initial: Canonical genomes to propose first.
        objectives: Objectives of the search.
        constraints: Constraints of the search.
    """

    def __call__(
        self,
        *,
        space: SearchSpace,
        seed: int,
        population: int,
        initial: Sequence[Genome],
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
    ) -> Optimizer: ...


@dataclass(frozen=True)
class Sampler:
    """An optimizer and the library that implements it.

    Attributes:
        library: Package that proposes the genomes, such as "pymoo". Its version is recorded,
            because another version may propose other architectures.
        make: Makes the optimizer.
    """

    library: str
    make: OptimizerFactory


SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "gp": "autopatch.search.gp:SAMPLER",
        "nsga2": "autopatch.search.nsga2:SAMPLER",
        "tpe": "autopatch.search.tpe:SAMPLER",
    },
)
"""Samplers by name. "gp" is the default, since it needs the fewest evaluations; "nsga2" proposes a
generation at a time; "tpe" is the sampler of the published protocol. Optuna records every search,
whichever sampler proposes."""
