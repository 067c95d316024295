"""The kernels of autopatch, also for use on their own.

- `aggregate_patches`: feature maps to patch features.
- `greedy_coreset`: k-center subsampling of a memory bank.
- `nearest_neighbors`, `NearestNeighborIndex`: exact search in a memory bank; `mean_distances`: mean
  over several neighbors; `search_work`, `SearchWork`: what a search does, in numbers
  that do not depend on the machine; `least_search_work`: the least it can do.
- `defect_scores`: scores from the distances to good patches and to known defects;
  `combined_scores`: the same from given distances.
- `usable_device`: a device by name, if kernels can run on it; `native_info`: instruction sets and
  CUDA support.
- `pixel_metrics`, `region_weighted_average_precision`: metrics of anomaly maps.

They need only torch and NumPy, and accept torch, NumPy and other arrays with `__dlpack__`. For
`torch.compile` and `torch.export` they are operators `torch.ops.autopatch.*`. `reference` has all
of them in plain PyTorch. The environment variable AUTOPATCH_ISA (generic, avx2, avx512,
avx512_vnni) lowers the instruction set of the CPU kernels.
"""

from autopatch.kernels.aggregate import aggregate_patches
from autopatch.kernels.coreset import greedy_coreset
from autopatch.kernels.defects import combined_scores, defect_scores, mean_distances
from autopatch.kernels.device import NativeInfo, native_info, usable_device
from autopatch.kernels.metrics import (
    PixelMetrics,
    pixel_metrics,
    region_weighted_average_precision,
)
from autopatch.kernels.nearest import NearestNeighborIndex, nearest_neighbors
from autopatch.kernels.work import SearchWork, least_search_work, search_work

__all__ = [
    "NativeInfo",
    "NearestNeighborIndex",
    "PixelMetrics",
    "SearchWork",
    "aggregate_patches",
    "combined_scores",
    "defect_scores",
    "greedy_coreset",
    "least_search_work",
    "mean_distances",
    "native_info",
    "nearest_neighbors",
    "pixel_metrics",
    "region_weighted_average_precision",
    "search_work",
    "usable_device",
]
