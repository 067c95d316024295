"""Greedy coreset subsampling of a memory bank."""

from __future__ import annotations

import torch

from autopatch.kernels import operators  # noqa: F401  (registers the operators)
from autopatch.kernels._arrays import Array, check_threads, like, to_float32


def greedy_coreset(
    features: Array,
    count: int,
    *,
    start: int | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> tuple[Array, Array]:
    """Picks `count` rows by the greedy k-center rule: each pick is the row farthest from all picks
    before it.

    This is the rule of Gonzalez (1985) as in PatchCore (Roth et al., 2022), but exact, and the
    start point is the first pick. Squared distances are float32 sums of squared differences in a
    fixed order: feature d is added to running sum d mod 16, then sums j and j + 8, j + 4, j + 2,
    j + 1 are added in turn; products and sums are rounded separately. Ties go to the lowest index.
    The picks are therefore the same on every CPU and GPU, with any number of threads.

    Most distances are skipped, because 8-bit codes of the rows prove that they are too large to
    matter. On a CPU the working memory is at most 64 MiB, or, if that is more, 128 bytes for each
    row and 40 bytes for each pick. On a GPU
    the working memory is D + 16 bytes per row, and one kernel makes all picks.

    Args:
        features: `[N, D]`, float32 (float16 and bfloat16 are converted), on the CPU or a GPU.
        count: Number of rows to pick, 1 to N.
        start: First pick, 0 to N - 1; drawn from `seed` if None.
        seed: Seed of the start point.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        Indices of the picks in order, `[count]`, int64, and covering radii, `[count]`, float32.
        `radii[i]` is the Euclidean distance from the first `i + 1` picks to the row farthest from
        them. NumPy arrays if `features` is one.

    Raises:
        TypeError: The dtype of `features` is not allowed.
        NotImplementedError: A tensor is sparse, or on a device that the kernels cannot run on.
        ValueError: `features` is not a matrix or holds NaN or infinity, or `count` or `start` is
            out of range.
    """
    tensor = to_float32("features", features)
    if start is not None and start < 0:
        raise ValueError(f"`start` is {start}, expected 0 or more")
    indices, radii = torch.ops.autopatch.greedy_coreset(
        tensor, count, -1 if start is None else start, seed, check_threads(num_threads)
    )
    return like(indices, features), like(radii, features)
