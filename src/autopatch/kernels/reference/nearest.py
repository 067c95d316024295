"""Exact nearest neighbors in plain PyTorch."""

from __future__ import annotations

import torch

_DIFFERENCES = 2**18  # held at a time; more do not fit into a CPU's caches


def nearest_neighbors(
    queries: torch.Tensor, bank: torch.Tensor, k: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `autopatch.kernels.nearest_neighbors`, in float64, a few queries at a time."""
    distances = torch.empty(len(queries), k, dtype=torch.float64)
    indices = torch.empty(len(queries), k, dtype=torch.int64)
    rows = bank.double()
    at_a_time = max(1, _DIFFERENCES // max(1, rows.numel()))
    for first in range(0, len(queries), at_a_time):
        some = slice(first, first + at_a_time)
        row_distances = (rows - queries[some, None].double()).square().sum(dim=2)
        # A stable sort keeps equal distances in row order.
        ordered, order = torch.sort(row_distances, stable=True)
        distances[some], indices[some] = ordered[:, :k], order[:, :k]
    return distances, indices
