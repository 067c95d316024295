from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest


@pytest.mark.parametrize("num_queries", [1, 64, 70])
@pytest.mark.parametrize("num_rows", [3, 64, 130])
@pytest.mark.parametrize("dim", [1, 16, 37])
def test_nearest_rows(
    emulated: Callable[[str], ctypes.CDLL], num_queries: int, num_rows: int, dim: int
) -> None:
    random = np.random.default_rng(0)
    queries, bank = (
        random.integers(-3, 4, (rows, dim)).astype(np.float32) for rows in (num_queries, num_rows)
    )
    k = 3
    distances = np.full((num_queries, k), np.nan, np.float32)
    indices = np.full((num_queries, k), -7)
    emulated("nearest_neighbors").nearest_neighbors(
        *(ctypes.c_void_p(queries.ctypes.data), ctypes.c_int64(num_queries)),
        *(ctypes.c_void_p(bank.ctypes.data), ctypes.c_int64(num_rows)),
        *(ctypes.c_int64(dim), ctypes.c_int64(k)),
        *(ctypes.c_void_p(distances.ctypes.data), ctypes.c_void_p(indices.ctypes.data)),
    )
    exact = np.square(queries[:, None] - bank).sum(axis=2)
    order = np.argsort(exact, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(exact, order, axis=1))
