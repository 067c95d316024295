"""Scores with known defects in plain PyTorch."""

from __future__ import annotations

import torch

from autopatch.kernels.reference.nearest import nearest_neighbors


def defect_scores(
    queries: torch.Tensor,
    bank: torch.Tensor,
    defects: torch.Tensor,
    *,
    weight: float,
    usual: float,
    neighbors: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Like `autopatch.kernels.defect_scores`, in float64."""
    good = nearest_neighbors(queries, bank, min(neighbors, len(bank)))[0].mean(dim=1)
    defect = nearest_neighbors(queries, defects)[0][:, 0]
    return good * (usual / (defect + 2 * weight * usual)) ** weight, good, defect
