"""Greedy coreset subsampling in plain PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

_RUNNING_SUMS = 16


def squared_distances(features: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Squared distances `[N]` from rows `[N, D]` to `[D]`, summed in the coreset's fixed order."""
    padding = -features.shape[1] % _RUNNING_SUMS
    rows = F.pad(features, (0, padding)).unflatten(1, (-1, _RUNNING_SUMS))
    point = F.pad(center, (0, padding)).unflatten(0, (-1, _RUNNING_SUMS))
    sums = torch.zeros_like(rows[:, 0])
    for chunk in range(rows.shape[1]):
        difference = rows[:, chunk] - point[chunk]
        square = difference * difference
        sums = sums + square
    width = _RUNNING_SUMS
    while width > 1:
        width //= 2
        sums = sums[:, :width] + sums[:, width:]
    return sums[:, 0]


def greedy_coreset(
    features: torch.Tensor, count: int, *, start: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `autopatch.kernels.greedy_coreset`; updates all distances at each pick."""
    nearest = torch.full((len(features),), torch.inf, dtype=features.dtype)
    indices = torch.empty(count, dtype=torch.int64)
    radii = torch.empty(count, dtype=features.dtype)
    pick = start
    for i in range(count):
        indices[i] = pick
        nearest = torch.minimum(nearest, squared_distances(features, features[pick]))
        nearest[pick] = -1
        pick = int((nearest == nearest.max()).nonzero()[0])
        # Python's square root is correctly rounded; torch's vectorized one may not be.
        radii[i] = math.sqrt(max(float(nearest[pick]), 0.0))
    return indices, radii
