"""What a step of the head is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from autopatch.genes import Choice, Setting
from autopatch.registry import Registry


class FeatureTransform(nn.Module):
    """Maps patch features `[M, D]` to `[M, D']`; made unfitted, with buffers of their final shape.

    Attributes:
        out_features: D'.
    """

    out_features: int

    def fit(self, patches: torch.Tensor) -> None:
        """Sets the buffers from features of good patches, `[M, D]`."""


class Step(ABC):
    """An optional step of the head and its gene.

    A step transforms patch features before they are compared, or anomaly maps afterwards. It is
    given a value for its gene; with `off` it is left out.

    Attributes:
        off: The value that leaves the step out.
        choices: Values a search chooses from by default; `(off,)` keeps the gene out of the default
            search space.
        per_level: Whether there is a gene for each level. The step is then given a tuple.
    """

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

    def maps(self, value: Setting, size: int) -> nn.Module | None:
        """The module that transforms anomaly maps `[N, S, S]`, None if the step leaves them as they
        are.

        Args:
            value: Of the gene, not `off`.
            size: S, in pixels.
        """
        return None


STEPS: Registry[Step] = Registry("step of the head")
"""The known steps by the name of their gene, in the order in which they run."""
