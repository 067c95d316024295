"""Patch aggregation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def aggregate_patches(
    feature_maps: Sequence[torch.Tensor],
    patch_sizes: Sequence[int],
    *,
    out_size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Like `autopatch.kernels.aggregate_patches`, with torch's own operations; any float dtype."""
    size = out_size or max((m.shape[2], m.shape[3]) for m in feature_maps)
    resized = [
        F.interpolate(
            F.avg_pool2d(m, p, stride=1, padding=(p - 1) // 2),
            size=size,
            mode="bilinear",
            align_corners=False,
        )
        for m, p in zip(feature_maps, patch_sizes, strict=True)
    ]
    return torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in resized], dim=1)
