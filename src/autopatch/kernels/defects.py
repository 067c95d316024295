"""Anomaly scores that use known defects beside good patches."""

from __future__ import annotations

import math

import torch

from autopatch.kernels._arrays import Array, like, to_float32
from autopatch.kernels.nearest import NearestNeighborIndex, nearest_neighbors


def mean_distances(
    queries: Array,
    bank: Array | NearestNeighborIndex,
    neighbors: int = 1,
    *,
    num_threads: int | None = None,
) -> Array:
    """The mean squared distance of each query to its nearest rows of a bank.

    Args:
        queries: `[Q, D]`, see `nearest_neighbors`.
        bank: `[N, D]`, see `nearest_neighbors`.
        neighbors: Number of nearest rows; all N if there are fewer.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        `[Q]`, float32; a NumPy array if `queries` is one. The mean of float32 distances is
        taken in float64.

    Raises:
        TypeError, NotImplementedError, ValueError: See `nearest_neighbors`.
    """
    tensor = to_float32("queries", queries)
    rows = len(bank)
    k = neighbors if neighbors < 1 else min(neighbors, rows)
    distances = nearest_neighbors(tensor, bank, k, num_threads=num_threads)[0]
    assert isinstance(distances, torch.Tensor)
    if k > 1:
        return like(distances.mean(dim=1, dtype=torch.float64).float(), queries)
    return like(distances.squeeze(1), queries)


def defect_scores(
    queries: Array,
    bank: Array | NearestNeighborIndex,
    defects: Array | NearestNeighborIndex,
    *,
    weight: float,
    usual: float,
    neighbors: int = 1,
    num_threads: int | None = None,
) -> tuple[Array, Array, Array]:
    """Scores queries by their distances to good patches and to patches of known defects.

    With d_n the (mean) squared distance to the nearest good rows, d_d the squared distance to the
    nearest defect row, w the weight, and m the usual distance of good patches, the score is

        d_n * (m / (d_d + 2 * w * m)) ** w.

    It is high for patches that are unlike good ones and like a known defect. The weight 0.5 gives
    d_n / sqrt(d_d + m), and the weight 1 gives d_n / (d_d + 2 m), both times a constant that makes
    the score a squared distance, like d_n.

    The distances are those of `nearest_neighbors`, exact on every device. The score is computed
    from them in float64 and is within 2e-7 (relative) of its exact value.

    Args:
        queries: `[Q, D]`, float32 (float16 and bfloat16 are converted), on the CPU or a GPU.
        bank: Good patches, `[N, D]` on the device of `queries`, or their index.
        defects: Patches of known defects, `[F, D]` on the device of `queries`, or their index.
        weight: w, above 0.
        usual: m, above 0: the median d_n of good images that are not in the bank.
        neighbors: Number of nearest good rows whose distances are averaged.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        Scores, d_n and d_d, `[Q]` each, float32; NumPy arrays if `queries` is one.

    Raises:
        TypeError: The dtype of an array is not allowed.
        NotImplementedError: A tensor is sparse, or on a device that the kernels cannot run on.
        ValueError: `weight` or `usual` is not a finite number above 0; see also
            `nearest_neighbors`.
    """
    for name, value in (("weight", weight), ("usual", usual)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` is {value}, expected a finite number above 0")
    tensor = to_float32("queries", queries)
    good = mean_distances(tensor, bank, neighbors, num_threads=num_threads)
    defect = mean_distances(tensor, defects, num_threads=num_threads)
    assert isinstance(good, torch.Tensor)
    assert isinstance(defect, torch.Tensor)
    scores = combined_scores(good, defect, weight=weight, usual=usual)
    return like(scores, queries), like(good, queries), like(defect, queries)


def combined_scores(
    good: torch.Tensor, defect: torch.Tensor, *, weight: float, usual: float
) -> torch.Tensor:
    """The scores of `defect_scores` from its distances d_n and d_d, `[Q]` each, float32."""
    factor = (usual / (defect.double() + 2 * weight * usual)) ** weight
    return (good.double() * factor).float()
