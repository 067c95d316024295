"""Exact nearest neighbors in a memory bank."""

from __future__ import annotations

import torch

from autopatch.kernels import _checks, _library
from autopatch.kernels._arrays import Array, check_threads, like, to_float32
from autopatch.kernels._screen import make_screen


class NearestNeighborIndex:
    """A bank that is checked and laid out once and searched many times.

    Args:
        bank: Rows to search, `[N, D]`, float32 (float16 and bfloat16 are converted), N >= 1.

    Raises:
        TypeError: `bank` has another dtype.
        ValueError: `bank` is not a matrix, has no rows, or holds NaN or infinity.
    """

    def __init__(self, bank: Array) -> None:
        tensor = to_float32("bank", bank)
        _checks.check_bank(tensor)
        self.bank = tensor.detach().contiguous()
        _library.check_finite("bank", self.bank, num_threads=0)
        self.screen = None if self.bank.is_cuda else make_screen(self.bank, _library.threads(0))

    def __len__(self) -> int:
        return int(self.bank.shape[0])

    def __repr__(self) -> str:
        rows, dim = self.bank.shape
        return f"NearestNeighborIndex({rows} rows, {dim} features, {self.bank.device})"


def nearest_neighbors(
    queries: Array,
    bank: Array | NearestNeighborIndex,
    k: int = 1,
    *,
    num_threads: int | None = None,
) -> tuple[Array, Array]:
    """The `k` rows of `bank` nearest to each query by squared Euclidean distance.

    The search is exhaustive and never holds a queries x bank matrix. Distances are float32 sums of
    squared differences: unlike the expanded form |q|^2 + |b|^2 - 2 q.b they do not cancel, so each
    is within 1e-5 relative of its float64 value, and a row at distance zero is found at zero.
    Equal distances, as of identical rows, are ordered by index.

    Args:
        queries: `[Q, D]`, float32 (float16 and bfloat16 are converted); CPU or CUDA.
        bank: `[N, D]` on the device of `queries`, or a `NearestNeighborIndex`.
        k: Neighbors of each query, 1 to N.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        Squared distances `[Q, k]`, float32, ascending, and row indices `[Q, k]`, int64; NumPy
        arrays if `queries` is one.

    Raises:
        TypeError: An array has another dtype.
        ValueError: Shapes or devices do not fit, `k` is out of range, or a query or the bank holds
            NaN, infinity or values whose squared distance exceeds float32.
    """
    query_tensor = to_float32("queries", queries)
    if isinstance(bank, NearestNeighborIndex):
        bank_tensor, screen, bank_is_finite = bank.bank, bank.screen, True
    else:
        bank_tensor, screen, bank_is_finite = to_float32("bank", bank), None, False
    distances, indices = torch.ops.autopatch.nearest_neighbors(
        query_tensor, bank_tensor, screen, k, bank_is_finite, check_threads(num_threads)
    )
    return like(distances, queries), like(indices, queries)
