"""Exact nearest neighbors in a memory bank."""

from __future__ import annotations

import torch

from autopatch.kernels import _checks
from autopatch.kernels._arrays import Array, check_threads, like, to_float32, to_tensor
from autopatch.kernels._codes import make_cuda_screen, make_screen
from autopatch.kernels.operators.library import check_finite, threads


class NearestNeighborIndex:
    """A bank and its screen, made once and searched many times.

    The screen is a rounded copy of the bank. It shows which rows cannot be near a query, and their
    distances are not computed; the search is still exact. On the CPU the screen has 8 bits per
    value. With 16 or more features it takes less than half the bank's memory. Making it takes as
    long as a few thousand queries, and about 40 bytes per row meanwhile. On a GPU the screen is
    float16, with rows padded to multiples of 64 features.

    One thread may change an index while others search it: each search uses the bank from either
    before or after the change.

    Args:
        bank: Rows to search, `[N, D]`, float32 (float16 and bfloat16 are converted), N >= 1, on
            the CPU or a GPU. On "meta", searches give only shapes. The bank is not copied and must
            not be changed afterwards.

    Attributes:
        bank: The rows.
        screen: The screen, uint8; None on "meta".

    Raises:
        TypeError: The dtype of `bank` is not allowed.
        NotImplementedError: `bank` is sparse, or on a device that the kernels cannot run on.
        ValueError: `bank` is not a matrix, has no rows or more than 2^31 - 1, or holds NaN or
            infinity.
    """

    def __init__(self, bank: Array) -> None:
        self._set(to_float32("bank", bank).detach())

    @classmethod
    def of_parts(cls, bank: torch.Tensor, screen: torch.Tensor | None) -> NearestNeighborIndex:
        """An index from the parts of an earlier index.

        Args:
            bank: Its `bank`.
            screen: Its `screen`, unchanged and on the bank's device.
        """
        index = cls.__new__(cls)
        index._parts = bank, screen
        return index

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`bank` and `screen`, which belong together even if another thread changes the index."""
        return self._parts

    @property
    def bank(self) -> torch.Tensor:
        """The rows, `[N, D]`, float32."""
        return self._parts[0]

    @property
    def screen(self) -> torch.Tensor | None:
        """The screen of the rows, uint8; None on "meta"."""
        return self._parts[1]

    def add(self, rows: Array) -> None:
        """Appends rows to the bank and makes a new screen.

        Args:
            rows: `[n, D]`, float32 (float16 and bfloat16 are converted), on the bank's device.

        Raises:
            TypeError: The dtype of `rows` is not allowed.
            ValueError: `rows` is not a matrix with D columns, is on another device, or holds NaN or
                infinity.
        """
        bank = self.bank
        tensor = to_float32("rows", rows).detach()
        _checks.check_memory("rows", tensor)
        if tensor.ndim != 2 or tensor.shape[1] != bank.shape[1]:
            raise ValueError(
                f"`rows` has shape {list(tensor.shape)}, expected [n, {bank.shape[1]}]"
            )
        if tensor.device != bank.device:
            raise ValueError(f"`rows` is on {tensor.device}, the bank on {bank.device}")
        check_finite("rows", tensor.contiguous(), num_threads=0)
        self._set(torch.cat([bank, tensor]))

    def remove(self, indices: Array) -> None:
        """Removes rows from the bank and makes a new screen. The rows after them move up.

        Args:
            indices: Row indices, `[n]`, integers from 0 to N - 1; repetitions count once.

        Raises:
            TypeError: `indices` are not integers.
            NotImplementedError: The bank is on "meta".
            ValueError: An index is out of range, or no row would be left.
        """
        bank = self.bank
        tensor = to_tensor("indices", indices)
        _checks.check_memory("indices", tensor)
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
            raise TypeError(f"`indices` has dtype {_checks.dtype_name(tensor)}, expected integers")
        if bank.is_meta or tensor.is_meta:
            raise NotImplementedError("rows on meta cannot be removed: they have no values")
        tensor = tensor.flatten().long()
        outside = tensor[(tensor < 0) | (tensor >= len(bank))]
        if len(outside):
            raise ValueError(f"`indices` holds {int(outside[0])}, expected 0 to {len(bank) - 1}")
        kept = torch.ones(len(bank), dtype=torch.bool, device=bank.device)
        kept[tensor.to(kept.device)] = False
        if not kept.any():
            raise ValueError("`indices` are all rows of the bank, expected to leave one")
        self._set(bank[kept])

    def _set(self, bank: torch.Tensor) -> None:
        _checks.check_bank(bank)
        bank = bank.contiguous()
        check_finite("bank", bank, num_threads=0)
        # One tuple, so that a search in another thread never sees a bank with another bank's
        # screen.
        self._parts = bank, _make_screen(bank)

    def __len__(self) -> int:
        return int(self.bank.shape[0])

    def __repr__(self) -> str:
        rows, dim = self.bank.shape
        return f"NearestNeighborIndex({rows} rows, {dim} features, {self.bank.device})"


def _make_screen(bank: torch.Tensor) -> torch.Tensor | None:
    if bank.is_meta:
        return None
    return make_cuda_screen(bank) if bank.is_cuda else make_screen(bank, threads(0))


def nearest_neighbors(
    queries: Array,
    bank: Array | NearestNeighborIndex,
    k: int = 1,
    *,
    num_threads: int | None = None,
) -> tuple[Array, Array]:
    """The `k` rows of `bank` nearest to each query by squared Euclidean distance.

    The search is exact and never stores a queries x bank matrix. A screen of the bank shows which
    rows are too far away, and these are skipped. On a GPU the screen is searched on tensor cores
    for k up to 32, with at most 512 MiB of memory besides the screen, or the memory for 128 queries
    if that is more.

    Distances are float32 sums of squared differences. Unlike the expanded form
    |q|^2 + |b|^2 - 2 q.b, they do not suffer from cancellation. Each is within 1e-5 (relative) of
    its float64 value, and identical rows have distance zero. Equal distances are ordered by index.

    Args:
        queries: `[Q, D]`, float32 (float16 and bfloat16 are converted), on the CPU or a GPU. On
            "meta", the results have only shapes.
        bank: `[N, D]` on the device of `queries`, or a `NearestNeighborIndex`, which keeps the
            screen between searches.
        k: Number of neighbors per query, 1 to N.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        Squared distances `[Q, k]`, float32, ascending, and row indices `[Q, k]`, int64; NumPy
        arrays if `queries` is one.

    Raises:
        TypeError: The dtype of an array is not allowed.
        NotImplementedError: A tensor is sparse, or on a device that the kernels cannot run on.
        ValueError: Shapes or devices do not match, `k` is out of range, or a query or the bank
            holds NaN, infinity or values whose squared distance exceeds float32.
    """
    query_tensor = to_float32("queries", queries)
    if isinstance(bank, NearestNeighborIndex):
        (bank_tensor, screen), bank_is_finite = bank.parts, True
    else:
        bank_tensor, screen, bank_is_finite = to_float32("bank", bank), None, False
    distances, indices = torch.ops.autopatch.nearest_neighbors(
        query_tensor, bank_tensor, screen, k, bank_is_finite, check_threads(num_threads)
    )
    return like(distances, queries), like(indices, queries)
