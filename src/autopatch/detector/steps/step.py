"""What a step of the head is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.genes import Choice, Setting, is_integer
from autopatch.registry import Registry


class FeatureTransform(nn.Module):
    """Maps patch features `[M, D]` to `[M, D']`; made unfitted, with buffers of their final shape.

    Attributes:
        out_features: D'.
    """

    out_features: int

    def fit(self, patches: torch.Tensor) -> None:
        """Sets the buffers from features of good patches, `[M, D]`."""


class ScoreTransform(nn.Module):
    """Maps patches `[M, D]` and their distances to the bank, `[M]`, to scores `[M]`; made unfitted,
    with buffers of their final shape."""

    def fit(self, patches: torch.Tensor) -> None:
        """Sets the buffers from features of good patches, `[M, D]`."""


class Step(ABC):
    """An optional step of the head and its gene.

    A step transforms patch features before they are compared, distances afterwards, or anomaly
    maps. It is given a value for its gene; with `off` it is left out.

    Attributes:
        order: Its place among the steps, which run in ascending order; no two have the same, and
            it must not change, as fitted detectors rely on it.
        off: The value that leaves the step out.
        choices: Values a search chooses from by default; `(off,)` keeps the gene out of the default
            search space.
        per_level: Whether there is a gene for each level. The step is then given a tuple.
    """

    order: int
    off: Choice = None
    choices: tuple[Choice, ...] = (None,)
    per_level: bool = False

    @abstractmethod
    def check(self, value: Choice) -> None:
        """Raises InputError unless a gene of the step can have the value."""

    @abstractmethod
    def describe(self, value: Setting) -> str:
        """The step in words, such as "smoothed by 2 px"."""

    def features(
        self, value: Setting, features: int, channels: tuple[int, ...]
    ) -> FeatureTransform | None:
        """The module that transforms patch features, None if the step leaves them as they are.

        Args:
            value: Of the gene, not `off`.
            features: D, the features of a patch that the module is given.
            channels: Features of each level; they add up to D at the first step.
        """
        return None

    def scores(self, value: Setting, features: int) -> ScoreTransform | None:
        """The module that turns distances into scores, None if the step leaves them as they are.

        Args:
            value: Of the gene, not `off`.
            features: D, the features of a patch as it is compared.
        """
        return None

    def maps(self, value: Setting, size: int) -> nn.Module | None:
        """The module that transforms anomaly maps `[N, S, S]`, None if the step leaves them as they
        are.

        Args:
            value: Of the gene, not `off`.
            size: S, in pixels.
        """
        return None


class StepRegistry(Registry[Step]):
    """Steps by the name of their gene; iterates in the order in which they run."""

    def register(self, name: str, entry: Step) -> None:
        """Adds a step.

        Raises:
            InputError: The name or the order is taken, or the step has no order.
        """
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
