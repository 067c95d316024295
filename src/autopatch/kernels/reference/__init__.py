"""The kernels in plain PyTorch: slow and simple references for the fast ones."""

from autopatch.kernels.reference.aggregate import aggregate_patches
from autopatch.kernels.reference.coreset import greedy_coreset
from autopatch.kernels.reference.defects import defect_scores
from autopatch.kernels.reference.metrics import pixel_metrics
from autopatch.kernels.reference.nearest import nearest_neighbors

__all__ = [
    "aggregate_patches",
    "defect_scores",
    "greedy_coreset",
    "nearest_neighbors",
    "pixel_metrics",
]
