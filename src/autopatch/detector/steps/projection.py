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
    """Projects features to a random subspace, scaled so that the expectation of a squared distance
    is the squared distance (Dasgupta & Gupta, "An elementary proof of a theorem of Johnson and
    Lindenstrauss", 2003).

    The subspace is spanned by columns of random signs (Achlioptas, "Database-friendly random
    projections", 2003). Orthonormal columns keep distances better than the signs themselves,
    above all if D' is near D: the relative error of a squared distance has a standard deviation of
    about sqrt(2 (1 / D' - 1 / D)), whatever the data, and sqrt(2 / D') with signs.

    PCA needs statistics, and keeps the directions in which good patches vary most; defects often
    differ in the others (Rippel, Mertens & Merhof, "Modeling the distribution of normal data in
    pre-trained deep features for anomaly detection", 2021).

    Args:
        features: D.
        out_features: D', less than D.

    Attributes:
        matrix: `[D, D']`, float32; its columns are orthogonal, of length sqrt(D / D'). On every
            machine the same but for rounding.
    """

    matrix: torch.Tensor

    def __init__(self, features: int, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        # Unlike other random numbers, NumPy's raw bits are the same in every version.
        count = features * out_features
        words = np.random.PCG64(_SEED).random_raw(math.ceil(count / 64))
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count, bitorder="little")
        signs = 1 - 2 * torch.from_numpy(bits).reshape(features, out_features).double()
        columns, triangle = torch.linalg.qr(signs)
        columns *= triangle.diagonal().sign()  # otherwise they depend on the library
        self.register_buffer("matrix", (columns * math.sqrt(features / out_features)).float())

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Projected features `[M, D']`, float32."""
        with in_float32(patches.device):
            return patches @ self.matrix


class Projection(Step):
    """Number of features after a random projection; features that are not more stay as they are."""

    order = 300
    choices = (None, 64, 32)

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
