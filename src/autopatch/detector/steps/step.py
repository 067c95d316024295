"""The base class of steps, their modules, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.genes import Choice, Setting, is_integer
from autopatch.registry import Registry


class FeatureTransform(nn.Module):
    """Maps patch features `[M, D]` to `[M, D']`.

    A new module is not fitted, but its buffers have their final shapes.

    Attributes:
        out_features: D'.
    """

    out_features: int

    def fit(self, patches: Iterable[torch.Tensor]) -> None:
        """Sets the buffers from the features of all good patches.

        Args:
            patches: Blocks `[M_i, D]`. They can be iterated several times; each time they are
                computed anew, which may take as long as running the backbone.
        """


class ScoreTransform(nn.Module):
    """Maps patch features `[M, D]` and their distances to the bank, `[M]`, to scores `[M]`.

    A new module is not fitted, but its buffers have their final shapes.
    """

    def fit(self, patches: Iterable[torch.Tensor]) -> None:
        """Sets the buffers from the features of all good patches.

        Args:
            patches: Blocks `[M_i, D]`. They can be iterated several times; each time they are
                computed anew, which may take as long as running the backbone.
        """


class Step(ABC):
    """An optional step of the head and its gene.

    A step transforms patch features, distances or anomaly maps. The value of its gene configures
    it; with the value `off` the step is skipped.

    Attributes:
        order: Steps run in ascending order. Unique; must never change, because fitted detectors
            depend on it.
        off: The value that turns the step off.
        choices: Default choices of a search. `(off,)` keeps the gene out of the default search
            space.
        per_level: Whether each level has its own gene. The value of the step is then a tuple.
    """

    order: int
    off: Choice = None
    choices: tuple[Choice, ...] = (None,)
    per_level: bool = False

    @abstractmethod
    def check(self, value: Choice) -> None:
        """Raises InputError unless a gene of the step may have the value."""

    @abstractmethod
    def describe(self, value: Setting) -> str:
        """A short description such as "smoothed by 2 px"."""

    def features(
        self, value: Setting, features: int, channels: tuple[int, ...]
    ) -> FeatureTransform | None:
        """The module that transforms patch features; None if the step does not change them.

        Args:
            value: Value of the gene, not `off`.
            features: D, number of features per patch in the module's input.
            channels: Number of features of each level. For the first step they sum to D.
        """
        return None

    def scores(self, value: Setting, features: int) -> ScoreTransform | None:
        """The module that turns distances into scores; None if the step does not change them.

        Args:
            value: Value of the gene, not `off`.
            features: D, number of features per patch after all feature steps.
        """
        return None

    def maps(self, value: Setting, size: int) -> nn.Module | None:
        """The module that transforms anomaly maps `[N, S, S]`; None if the step does not change
        them.

        Args:
            value: Value of the gene, not `off`.
            size: S, in pixels.
        """
        return None


_FIELDS = ("patch_size", "patch_sizes", "bank_size", "steps", "neighbors", "defects", "smoothing")


class StepRegistry(Registry[Step]):
    """Steps by the name of their gene. Iterates in the order in which steps run."""

    def register(self, name: str, entry: Step) -> None:
        """Adds a step.

        Raises:
            InputError: The name or the order is taken, or the order is missing.
        """
        if name in _FIELDS:
            raise InputError(f"step {name!r}: the head has a field of this name")
        order = getattr(entry, "order", None)
        if not is_integer(order):
            raise InputError(f"step {name!r}: order is {order!r}, expected an integer")
        for other in self:
            if self[other].order == order:
                raise InputError(f"step {name!r}: order {order} is that of {other!r}")
        super().register(name, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__(), key=lambda name: self[name].order))


STEPS = StepRegistry("step of the head")
"""The known steps."""
