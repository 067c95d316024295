"""Random projection of patch features to fewer dimensions."""

from __future__ import annotations

import math

import numpy as np
import torch

from autopatch.detector.steps.step import STEPS, FeatureTransform, Step
from autopatch.errors import InputError
from autopatch.genes import Choice, Setting, is_integer
from autopatch.supernet.float32 import in_float32

_SEED = 0  # results depend on it


class RandomProjection(FeatureTransform):
    """Multiplies features by a matrix of random signs, scaled so that the expectation of a squared
    distance is the squared distance (Achlioptas, "Database-friendly random projections", 2003).

    The relative error of a squared distance has a standard deviation of at most sqrt(2 / D'),
    whatever the data. PCA needs statistics, and keeps the directions in which good patches vary
    most; defects often differ in the others (Rippel, Mertens & Merhof, "Modeling the distribution
    of normal data in pre-trained deep features for anomaly detection", 2021).

    Args:
        features: D.
        out_features: D'.

    Attributes:
        matrix: `[D, D']`, float32: 1 / sqrt(D') with random signs. Equal on every machine.
    """

    matrix: torch.Tensor

    def __init__(self, features: int, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        # Unlike other random numbers, NumPy's raw bits are the same in every version.
        count = features * out_features
        words = np.random.PCG64(_SEED).random_raw(math.ceil(count / 64))
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count, bitorder="little")
        signs = 1 - 2 * torch.from_numpy(bits).reshape(features, out_features).float()
        self.register_buffer("matrix", signs / math.sqrt(out_features))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Projected features `[M, D']`, float32."""
        with in_float32(patches.device):
            return patches @ self.matrix


class Projection(Step):
    """Number of features after a random projection; features that are not more stay as they are."""

    order = 300
    choices = (None,)

    def check(self, value: Choice) -> None:
        """Raises InputError unless the value is a number of features."""
        if value is not None and (not is_integer(value) or value < 1):
            raise InputError(f"projection is {value!r}, expected an integer from 1, or None")

    def describe(self, value: Setting) -> str:
        """A text such as "projected to at most 64 features"."""
        return f"projected to at most {value} features"

    def features(
        self, value: Setting, features: int, channels: tuple[int, ...]
    ) -> FeatureTransform | None:
        """The module; None if there are not more features."""
        assert is_integer(value)
        return RandomProjection(features, value) if value < features else None


STEPS.register("projection", Projection())
