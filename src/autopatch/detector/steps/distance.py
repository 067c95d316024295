"""Distances between patch features."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autopatch.detector.steps.step import STEPS, FeatureTransform, Step
from autopatch.errors import InputError
from autopatch.genes import Choice, Setting


class UnitLength(FeatureTransform):
    """Divides each row by its norm, so that squared distances are 2 (1 - cos). It needs no
    statistics.

    A row of zeros stays zero; its squared distance to others is 1, that of a right angle is 2.

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Rows `[M, D]` of length 1, float32."""
        return F.normalize(patches, dim=1)


class Distance(Step):
    """The distance between patches, after all other steps on features."""

    order = 400
    off = "squared_l2"
    choices = ("squared_l2", "cosine")

    def check(self, value: Choice) -> None:
        """Raises InputError unless the value is a distance."""
        if value not in ("squared_l2", "cosine"):
            raise InputError(f"distance is {value!r}, expected 'squared_l2' or 'cosine'")

    def describe(self, value: Setting) -> str:
        """A text such as "cosine distance"."""
        return f"{value} distance"

    def features(
        self, value: Setting, features: int, channels: tuple[int, ...]
    ) -> FeatureTransform:
        """The module."""
        return UnitLength(features)


STEPS.register("distance", Distance())
