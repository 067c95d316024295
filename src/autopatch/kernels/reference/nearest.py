"""Exact nearest neighbors in plain PyTorch."""

from __future__ import annotations

import torch


def nearest_neighbors(
    queries: torch.Tensor, bank: torch.Tensor, k: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `autopatch.kernels.nearest_neighbors`, in float64, one query at a time."""
    distances = torch.empty(len(queries), k, dtype=torch.float64)
    indices = torch.empty(len(queries), k, dtype=torch.int64)
    rows = bank.double()
    for i, query in enumerate(queries.double()):
        row_distances = (rows - query).square().sum(dim=1)
        # A stable sort keeps equal distances in row order.
        ordered, order = torch.sort(row_distances, stable=True)
        distances[i], indices[i] = ordered[:k], order[:k]
    return distances, indices
