"""What a search for nearest neighbors does, in numbers that do not depend on the machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autopatch import _C
from autopatch.kernels import _checks
from autopatch.kernels._arrays import Array, to_float32
from autopatch.kernels._codes import least_width
from autopatch.kernels.nearest import NearestNeighborIndex
from autopatch.kernels.operators.library import threads

GROUP_ROWS: int = _C.panel_rows
"""Rows of a bank whose codes are compared with a query at once."""


@dataclass(frozen=True)
class SearchWork:
    """What the search in a bank does for one query on the CPU, on average.

    Every group of 64 rows is compared with the query by 8-bit codes. Distances are computed only to
    the rows that the codes cannot rule out.

    Attributes:
        rows: Rows of the bank.
        features: Features of a row.
        codes: Codes of a row.
        is_projected: Whether the codes are those of coordinates along principal directions, which
            are computed for each query.
        groups: Number of groups. Of identical rows only one is in a group.
        distances: Distances that are computed.
        visits: Groups to whose rows at least one distance is computed. The rows around the nearest
            pivot, which are searched first, count as a group.
    """

    rows: int
    features: int
    codes: int
    is_projected: bool
    groups: int
    distances: float
    visits: float


def search_work(queries: Array, index: NearestNeighborIndex, k: int = 1) -> SearchWork:
    """Counts what `nearest_neighbors` does on the CPU.

    For one index, the counts are the same for any number of threads and any order of the queries.
    Between instruction sets they may differ as far as rounded distances do.

    Args:
        queries: `[Q, D]`, see `nearest_neighbors`; at least one.
        index: The bank. If it is on a GPU, the counts are those of the same bank on the CPU.
        k: Number of neighbors per query, 1 to N.

    Raises:
        TypeError, NotImplementedError, ValueError: See `nearest_neighbors`. `queries` is empty.
    """
    tensor = to_float32("queries", queries)
    bank, screen = index.parts  # read once: another thread may change the index
    _checks.check_nearest(tensor, bank, k)
    if not len(tensor):
        raise ValueError("`queries` has no rows, expected at least one")
    if bank.is_cuda:
        tensor = tensor.cpu()
        bank, screen = NearestNeighborIndex(bank.cpu()).parts
    if screen is None:
        raise NotImplementedError("work on meta cannot be counted: there are no values")
    _checks.check_cpu_screen(screen, bank)
    tensor, bank = tensor.contiguous(), bank.contiguous()
    asked, (rows, features) = len(tensor), bank.shape
    distances = torch.empty((asked, k), dtype=torch.float32, device="cpu")
    indices = torch.empty((asked, k), dtype=torch.int64, device="cpu")
    counts = torch.zeros(2, dtype=torch.int64, device="cpu")
    _C.nearest_neighbors(
        tensor.data_ptr(),
        asked,
        bank.data_ptr(),
        rows,
        features,
        screen.data_ptr(),
        k,
        distances.data_ptr(),
        indices.data_ptr(),
        counts.data_ptr(),
        threads(0),
    )
    computed, visits = counts.tolist()
    codes, groups, is_projected = _C.screen_shape(screen.data_ptr())
    return SearchWork(rows, features, codes, is_projected, groups, computed / asked, visits / asked)


def least_search_work(rows: int, features: int) -> SearchWork:
    """The least that a search in a bank does, whatever is in it, unless rows are identical.

    Args:
        rows: Rows of the bank, at least 1.
        features: Features of a row.
    """
    groups = -(-rows // GROUP_ROWS)
    return SearchWork(rows, features, least_width(rows, features), False, groups, 1.0, 1.0)
