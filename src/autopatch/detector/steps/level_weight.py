"""Weights of feature levels."""

from __future__ import annotations

import torch

from autopatch.detector.steps.step import STEPS, FeatureTransform, Step
from autopatch.errors import InputError
from autopatch.genes import Choice, Setting

_SMALLEST, _LARGEST = 0.01, 100.0


class Weighting(FeatureTransform):
    """Multiplies each feature by a weight. It needs no statistics.

    Args:
        weights: `[D]`, float32.

    Attributes:
        weights: `[D]`, float32.
    """

    weights: torch.Tensor

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.out_features = len(weights)
        self.register_buffer("weights", weights)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Weighted features `[M, D]`, float32."""
        return patches * self.weights


class LevelWeight(Step):
    """Weight of the features of a level. Its part of squared distances has the square as weight.

    The weights follow the normalization, which would undo them, and precede steps that mix the
    features of different levels. The weight of a single level scales all scores.
    """

    order = 200
    off = 1.0
    choices = (1.0, 0.5, 2.0)
    per_level = True

    def check(self, value: Choice) -> None:
        """Raises InputError unless the value is a weight."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not _SMALLEST <= value <= _LARGEST
        ):
            raise InputError(
                f"level weight is {value!r}, expected a number from {_SMALLEST:g} to {_LARGEST:g}"
            )

    def describe(self, value: Setting) -> str:
        """A text such as "levels weighted 1 0.5"."""
        return f"levels weighted {' '.join(f'{weight:g}' for weight in _weights(value))}"

    def features(
        self, value: Setting, features: int, channels: tuple[int, ...]
    ) -> FeatureTransform:
        """The module."""
        weights = torch.tensor(_weights(value), dtype=torch.float32, device="cpu")
        return Weighting(weights.repeat_interleave(torch.tensor(channels, device="cpu")))


def _weights(value: Setting) -> list[float]:
    assert isinstance(value, tuple)
    return [float(weight) for weight in value if weight is not None]


STEPS.register("level_weight", LevelWeight())
