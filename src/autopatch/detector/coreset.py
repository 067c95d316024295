"""The coreset of all patches of the good images, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from autopatch.kernels import greedy_coreset, nearest_neighbors

CORESET_BYTES = 2 << 30
"""Default memory for the patches that a coreset is chosen from, in bytes."""

_KERNEL_BYTES = 128  # working memory of the kernel, per row
_FIRST_PICKS = 256
_SUMMED = 2048  # rows copied to float64 at a time, so that they stay in the cache


@dataclass(frozen=True)
class Coreset:
    """Rows chosen from the patches of all good images, in the order of the picks.

    If nothing was dropped (`lost` is 0), the first m rows are the coreset of m rows.

    Attributes:
        rows: `[n, D]`, float32.
        radii: `[n]`, float32. Every patch lies within `radii[i] + lost` of one of the first i + 1
            rows (Euclidean distance). All 0 if all patches are kept.
        lost: How far the dropped patches may lie from the patches that the rows were chosen from;
            0 if the rows were chosen from all patches.
        patches: Number of patches.
    """

    rows: torch.Tensor
    radii: torch.Tensor
    lost: float
    patches: int

    def radius(self, count: int) -> float:
        """Every patch lies within this distance of one of the first `count` rows."""
        return float(self.radii[count - 1]) + self.lost


def choose_coreset(
    blocks: Iterable[torch.Tensor],
    count: int | None,
    *,
    patches: int,
    memory_bytes: int = CORESET_BYTES,
    told: Callable[[int, int], None] | None = None,
) -> Coreset:
    """Chooses `count` patches by the greedy k-center rule.

    The first pick is the patch nearest to the mean of all patches, so the choice depends neither on
    a seed nor on the order of the images (except where patches are equally far away).

    If the patches exceed the memory, they are thinned on the way, and then their order matters.
    Each time the memory is full, its patches are replaced by a coreset of `4 * count` of them, or
    as many as fit into half the memory. What was dropped lies within the covering radius of that
    coreset; `lost` is the sum of these radii. After the first time, each block is thinned on its
    way in: of patches within `lost` of each other, one is enough. This is merge-and-reduce
    (Har-Peled & Mazumdar, On coresets for k-means and k-median clustering, STOC 2004) with the
    k-center coreset of Gonzalez (1985).

    Args:
        blocks: Features of the patches, `[M_i, D]` each, float32, on one device.
        count: Number of rows to choose; None, or `patches` or more, keeps all in order.
        patches: Number of patches in all blocks.
        memory_bytes: Memory for the patches and the working memory of the kernel. All patches are
            kept without regard to it if `count` is None.
        told: Called before and after the rows are chosen with the number of rows chosen, and their
            total; not if all patches are kept.

    Raises:
        ValueError: The memory does not hold twice `count` patches, or there is no patch.
    """
    rows: torch.Tensor | None = None
    total: torch.Tensor | None = None
    filled, seen, lost = 0, 0, 0.0
    capacity = patches
    for block in blocks:
        if rows is None or total is None:
            dim = block.shape[1]
            if count is not None and count < patches:
                capacity = min(patches, memory_bytes // (4 * dim + _KERNEL_BYTES))
                if capacity < min(2 * count, patches):
                    raise ValueError(
                        f"a coreset of {count} of {patches} patches with {dim} features needs "
                        f"{2 * count * (4 * dim + _KERNEL_BYTES) / 2**20:.0f} MiB, expected at "
                        f"most {memory_bytes / 2**20:.0f}"
                    )
            rows = block.new_empty((capacity, dim))
            total = block.new_zeros(dim, dtype=torch.float64)
        for part in block.split(_SUMMED):
            total += part.double().sum(dim=0)
        seen += len(block)
        if lost:
            block = _thinned(block, lost)
        for part in block.split(max(capacity - capacity // 2, 1)):
            if filled + len(part) > capacity:
                assert count is not None
                kept = min(4 * count, capacity // 2)
                reduced, radii = _greedy(rows[:filled], kept, total / seen)
                lost += float(radii[-1])
                filled = len(reduced)
                rows[:filled] = reduced
            rows[filled : filled + len(part)] = part
            filled += len(part)
    if rows is None or total is None:
        raise ValueError("`blocks` has no patch")
    if count is None or count >= patches:
        return Coreset(rows, rows.new_zeros(len(rows)), 0.0, seen)
    if told is not None:
        told(0, count)
    chosen, radii = _greedy(rows[:filled], count, total / seen)
    if told is not None:
        told(count, count)
    return Coreset(chosen, radii, lost, seen)


def _greedy(
    rows: torch.Tensor, count: int, mean: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The coreset of `count` rows that begins with the row nearest to the mean, and its radii."""
    start = int(nearest_neighbors(mean.to(rows.dtype)[None], rows)[1])
    indices, radii = greedy_coreset(rows, count, start=start)
    return rows[indices], radii


def _thinned(rows: torch.Tensor, radius: float) -> torch.Tensor:
    """Some of the rows, so that every row lies within the radius of one of them."""
    count = _FIRST_PICKS
    while count < len(rows):
        indices, radii = greedy_coreset(rows, count, start=0)
        if radii[-1] <= radius:
            return rows[indices[: int((radii <= radius).nonzero()[0]) + 1]]
        count *= 4
    return rows
