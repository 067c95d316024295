"""Normalization of patch features by statistics of good patches.

The mean is not subtracted. It cancels in differences of features; angles are measured from zero,
since those from the mean are noise for the many patches that are near it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from autopatch.detector.steps.step import STEPS, FeatureTransform, Step
from autopatch.errors import InputError
from autopatch.genes import Choice, Setting
from autopatch.supernet.float32 import in_float32

_ROWS_AT_A_TIME = 2**14  # rows copied to float64 at a time
_ROUNDING = 1e-6  # smaller deviations, relative to the mean, are rounding of float32 features
_SMALLEST = 1e-3  # smallest deviation, relative to the usual one

# Whatever torch's default dtype and device are.
_FLOAT32: Any = {"dtype": torch.float32, "device": "cpu"}


class Standardization(FeatureTransform):
    """Divides each feature by its standard deviation.

    A standard deviation counts as at least a thousandth of the median one of those features that
    vary. Otherwise a feature that good patches hardly ever have would decide alone. If no feature
    varies, all stay as they are.

    Args:
        features: D.

    Attributes:
        deviation: `[D]`, float32.
    """

    deviation: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features
        self.register_buffer("deviation", torch.ones(features, **_FLOAT32))

    @torch.no_grad()
    def fit(self, patches: Iterable[torch.Tensor]) -> None:
        """Sets the deviation in one pass, in float64.

        Raises:
            ValueError: The patches hold NaN or infinity.
        """
        _, mean, variances = _moments(patches, self.deviation, covariance=False)
        deviations = variances.sqrt()
        deviations[deviations <= _ROUNDING * mean.abs()] = 0
        varying = deviations[deviations > 0]
        if len(varying):
            deviations.clamp_(min=_SMALLEST * float(varying.median()))
        else:
            deviations.fill_(1)
        self.deviation.copy_(deviations)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Standardized features `[M, D]`, float32."""
        return patches / self.deviation


class Whitening(FeatureTransform):
    """Multiplies features by the inverse square root of their covariance (ZCA), which is shrunk by
    `oracle_approximating_shrinkage`.

    Squared distances become squared Mahalanobis distances. Of all matrices that whiten, the
    symmetric one changes features least (Kessy, Lewin & Strimmer, "Optimal whitening and
    decorrelation", 2018), so each feature still belongs to its level.

    A standard deviation along an eigenvector counts as at least a thousandth of their root mean
    square. If no feature varies, all stay as they are.

    With another number of threads, whitened features differ by up to 1e-5 of the largest.

    Args:
        features: D.

    Attributes:
        matrix: `[D, D]`, float32, symmetric.
    """

    matrix: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features
        self.register_buffer("matrix", torch.eye(features, **_FLOAT32))

    @torch.no_grad()
    def fit(self, patches: Iterable[torch.Tensor]) -> None:
        """Sets the matrix in one pass, in float64: 2 M D^2 FLOPs for M patches.

        Raises:
            ValueError: The patches hold NaN or infinity.
        """
        count, _, covariance = _moments(patches, self.matrix[0], covariance=True)
        # On the CPU, so that the matrix depends on the device only through the covariance.
        variances, directions = torch.linalg.eigh(covariance.cpu())
        variances.clamp_(min=0)
        shrinkage = oracle_approximating_shrinkage(variances, count)
        usual = float(variances.mean())
        variances = (1 - shrinkage) * variances + shrinkage * usual
        deviations = variances.clamp(min=_SMALLEST**2 * usual).sqrt() if usual else 1
        self.matrix.copy_(directions / deviations @ directions.T)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Whitened features `[M, D]`, float32."""
        with in_float32(patches.device):
            return patches @ self.matrix


def oracle_approximating_shrinkage(variances: torch.Tensor, count: int) -> float:
    """Weight of the mean variance in the shrunk covariance (1 - weight) S + weight tr(S) / D I.

    Chen, Wiesel, Eldar & Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010,
    equation 23.

    Args:
        variances: Eigenvalues of the covariance S, `[D]`, float64.
        count: Number of samples.

    Returns:
        From 0 to 1.
    """
    features = len(variances)
    squares = float(variances.square().sum())
    square = float(variances.sum()) ** 2
    above = (1 - 2 / features) * squares + square
    below = (count + 1 - 2 / features) * (squares - square / features)
    return min(above / below, 1.0) if below > 0 else 1.0


def _moments(
    patches: Iterable[torch.Tensor], like: torch.Tensor, *, covariance: bool
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Number of patches, mean `[D]`, and covariance `[D, D]` or variances `[D]`, in float64.

    The moments of blocks are merged, so nothing cancels (Chan, Golub & LeVeque, "Algorithms for
    computing the sample variance", 1983). The order of blocks matters only by rounding.

    Args:
        patches: Blocks `[M_i, D]`.
        like: A tensor `[D]` on the device of the blocks.
        covariance: Whether to compute the covariance.

    Raises:
        ValueError: The patches hold NaN or infinity.
    """
    count = 0
    mean = like.new_zeros(like.shape, dtype=torch.float64)
    scatter = like.new_zeros(like.shape * 2 if covariance else like.shape, dtype=torch.float64)
    for block in patches:
        for part in block.split(_ROWS_AT_A_TIME):
            rows = part.double()
            mean_of_rows = rows.mean(dim=0)
            rows -= mean_of_rows
            count += len(rows)
            shift = mean_of_rows - mean
            mean += shift * (len(rows) / count)
            weight = len(rows) * (count - len(rows)) / count
            if covariance:
                scatter.addmm_(rows.T, rows).addr_(shift, shift, alpha=weight)
            else:
                scatter += rows.square_().sum(dim=0) + weight * shift.square_()
    if not scatter.isfinite().all():
        raise ValueError("`patches` hold NaN or infinity")
    return count, mean, scatter / max(count, 1)


class Normalization(Step):
    """Patch features of equal variance: standardized one by one, or whitened together."""

    order = 100
    choices = (None,)

    def check(self, value: Choice) -> None:
        """Raises InputError unless the value is a normalization."""
        if value not in (None, "standardize", "whiten"):
            raise InputError(
                f"normalization is {value!r}, expected 'standardize', 'whiten' or None"
            )

    def describe(self, value: Setting) -> str:
        """The word for the value: standardized or whitened."""
        return "standardized" if value == "standardize" else "whitened"

    def features(
        self, value: Setting, features: int, channels: tuple[int, ...]
    ) -> FeatureTransform:
        """The module."""
        return Standardization(features) if value == "standardize" else Whitening(features)


STEPS.register("normalization", Normalization())
