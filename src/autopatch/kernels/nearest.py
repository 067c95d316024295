"""Exact nearest neighbors in a memory bank."""

from __future__ import annotations

import torch

from autopatch.kernels import _checks, _library
from autopatch.kernels._arrays import Array, check_threads, like, to_float32, to_tensor
from autopatch.kernels._codes import make_cuda_screen, make_screen


class NearestNeighborIndex:
    """A bank with its screen, made once and searched many times.

    The screen, a rounded picture of the bank, tells which rows cannot be near a query: the search
    computes the distances of the few others and is exact. On the CPU it is of 8 bits a value, takes
    less than half the bank's memory from 16 features on, and is made in the time of some thousand
    queries; making it takes some 40 bytes a row for a while. On a GPU it is of float16, rows padded
    to multiples of 64 features.

    Args:
        bank: Rows to search, `[N, D]`, float32 (float16 and bfloat16 are converted), N >= 1. It is
            kept as it is, not copied, and must not be changed afterwards.

    Attributes:
        bank: The rows.
        screen: The screen, uint8, in one piece.

    Raises:
        TypeError: `bank` has another dtype.
        ValueError: `bank` is not a matrix, has no rows or more than 2^31 - 1, or holds NaN or
            infinity.
    """

    bank: torch.Tensor
    screen: torch.Tensor | None

    def __init__(self, bank: Array) -> None:
        self._set(to_float32("bank", bank).detach())

    @classmethod
    def of_parts(cls, bank: torch.Tensor, screen: torch.Tensor | None) -> NearestNeighborIndex:
        """An index of a bank and the screen that was made of it before.

        Args:
            bank: `bank` of an index.
            screen: Its `screen`, unchanged and on the bank's device.
        """
        index = cls.__new__(cls)
        index.bank, index.screen = bank, screen
        return index

    def add(self, rows: Array) -> None:
        """Puts rows behind those of the bank, and makes a new screen.

        Args:
            rows: `[n, D]`, of a dtype that `bank` may have, on the bank's device.

        Raises:
            TypeError: `rows` has another dtype.
            ValueError: `rows` is not a matrix of D columns, or holds NaN or infinity.
        """
        tensor = to_float32("rows", rows).detach()
        if tensor.ndim != 2 or tensor.shape[1] != self.bank.shape[1]:
            raise ValueError(
                f"`rows` has shape {list(tensor.shape)}, expected [n, {self.bank.shape[1]}]"
            )
        if tensor.device != self.bank.device:
            raise ValueError(f"`rows` is on {tensor.device}, the bank on {self.bank.device}")
        _library.check_finite("rows", tensor.contiguous(), num_threads=0)
        self._set(torch.cat([self.bank, tensor]))

    def remove(self, indices: Array) -> None:
        """Takes rows out of the bank, and makes a new screen. Those behind them move up.

        Args:
            indices: Row indices, `[n]`, integers from 0 to N - 1; repetitions count once.

        Raises:
            TypeError: `indices` are not integers.
            ValueError: An index is out of range, or no row would be left.
        """
        tensor = to_tensor("indices", indices)
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
            raise TypeError(f"`indices` has dtype {_checks.dtype_name(tensor)}, expected integers")
        tensor = tensor.flatten().long()
        outside = tensor[(tensor < 0) | (tensor >= len(self))]
        if len(outside):
            raise ValueError(f"`indices` holds {int(outside[0])}, expected 0 to {len(self) - 1}")
        kept = torch.ones(len(self), dtype=torch.bool, device=self.bank.device)
        kept[tensor.to(kept.device)] = False
        if not kept.any():
            raise ValueError("`indices` are all rows of the bank, expected to leave one")
        self._set(self.bank[kept])

    def _set(self, bank: torch.Tensor) -> None:
        _checks.check_bank(bank)
        bank = bank.contiguous()
        _library.check_finite("bank", bank, num_threads=0)
        self.screen = (
            make_cuda_screen(bank) if bank.is_cuda else make_screen(bank, _library.threads(0))
        )
        self.bank = bank

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

    The search is exact and never holds a queries x bank matrix: rows that a screen of the bank
    proves too far are passed over. On a GPU the screening runs on tensor cores for k up to 32, and
    takes 512 MiB at most beside the screen, or what 128 queries need. Distances are float32 sums of
    squared differences: unlike the expanded form |q|^2 + |b|^2 - 2 q.b they do not cancel, so each
    is within 1e-5 relative of its float64 value, and a row at distance zero is found at zero. Equal
    distances, as of identical rows, are ordered by index.

    Args:
        queries: `[Q, D]`, float32 (float16 and bfloat16 are converted); CPU or CUDA.
        bank: `[N, D]` on the device of `queries`, or a `NearestNeighborIndex`, which keeps the
            screen from one search to the next.
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
