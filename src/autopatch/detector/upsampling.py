"""Anomaly maps from scores: resizing and smoothing in one step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from autopatch.supernet.float32 import in_float32

_TRUNCATE = 4  # standard deviations, as in SciPy

# A CPU's matrix product sums in an order that depends on the number of threads, unless the sides of
# the result are multiples of these.
_SCORES_MULTIPLE = 16
_MAPS_MULTIPLE = 32


class Upsampling(nn.Module):
    """Resizes scores bilinearly to square maps and smooths these with a Gaussian.

    Resizing is `F.interpolate` with align_corners=False. Smoothing is `gaussian_filter` of
    scipy.ndimage with mode "reflect" and truncate 4. Both are linear and separable, so they are
    done at once, with a matrix `[S, h]` for rows and one `[S, w]` for columns. The matrices are
    made once for each size and device, in float64, and rounded to float32. Without smoothing,
    `F.interpolate` is as fast and is used.

    Scores must be finite. If none is negative, each pixel is within 1e-6 (relative) of the exact
    result. On a CPU, maps do not depend on the batch size or the number of threads. The module has
    no parameters and no buffers.

    Args:
        size: S, side of the maps in pixels.
        sigma: Standard deviation of the Gaussian in pixels of the map; 0 does not smooth.

    Raises:
        ValueError: `sigma` is negative or not finite, or `size` is not positive.
    """

    def __init__(self, size: int, sigma: float = 0.0) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`size` is {size}, expected at least 1")
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"`sigma` is {sigma}, expected a number from 0")
        self.size = size
        self.sigma = float(sigma)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Maps `[N, S, S]` of scores `[N, h, w]`, float32."""
        side = (self.size, self.size)
        if not self.sigma:
            return F.interpolate(
                scores.unsqueeze(1), size=side, mode="bilinear", align_corners=False
            ).squeeze(1)
        _, height, width = scores.shape
        rows = _matrix(height, self.size, self.sigma, scores.device)
        columns = _matrix(width, self.size, self.sigma, scores.device)
        padded = F.pad(scores, (0, columns.shape[1] - width, 0, rows.shape[1] - height))
        with in_float32(scores.device):
            maps: torch.Tensor = rows @ padded @ columns.T
        return maps[:, : self.size, : self.size].contiguous()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _matrix(length: int, size: int, sigma: float, device: torch.device) -> torch.Tensor:
    """The matrix of one axis, padded with zeros, float32, on a device."""
    if torch.compiler.is_compiling():  # the tensor may be a fake one
        return torch.from_numpy(_weights(length, size, sigma)).to(device)
    return _kept_matrix(length, size, sigma, device)


@lru_cache(maxsize=64)
def _kept_matrix(length: int, size: int, sigma: float, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # autograd may use it later
        return torch.from_numpy(_weights(length, size, sigma)).to(device)


@lru_cache(maxsize=64)
def _weights(length: int, size: int, sigma: float) -> npt.NDArray[np.float32]:
    """Weights `[size, length]` of scores in pixels of the map, padded with zeros."""
    pixels = np.arange(size)
    centers = np.maximum((pixels + 0.5) * (length / size) - 0.5, 0)
    lower = np.floor(centers).astype(np.int64)
    resized = np.zeros((size, length))
    resized[pixels, lower] = 1 - (centers - lower)
    resized[pixels, np.minimum(lower + 1, length - 1)] += centers - lower

    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    gaussian = np.exp(-0.5 * (offsets / sigma) ** 2)
    sources = (pixels[:, None] + offsets) % (2 * size)
    sources = np.minimum(sources, 2 * size - 1 - sources)
    smoothed = np.zeros((size, size))
    np.add.at(smoothed, (pixels[:, None], sources), gaussian / gaussian.sum())

    padding = (-size % _MAPS_MULTIPLE, -length % _SCORES_MULTIPLE)
    weights = np.pad(smoothed @ resized, [(0, more) for more in padding])
    return weights.astype(np.float32)
