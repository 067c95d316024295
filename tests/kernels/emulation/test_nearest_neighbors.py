from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch

from autopatch.kernels._codes import cuda_rounding


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def sizes(*values: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(value) for value in values]


def search(
    library: ctypes.CDLL, queries: torch.Tensor, bank: torch.Tensor, k: int, *, screened: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, dim = bank.shape
    screen = workspace = None
    if screened:
        for function in (library.screen_bytes, library.workspace_bytes):
            function.restype = ctypes.c_int64
        screen = torch.full((library.screen_bytes(*sizes(rows, dim)),), 255, dtype=torch.uint8)
        size = library.workspace_bytes(*sizes(len(queries), rows, dim))
        workspace = torch.full((size,), 255, dtype=torch.uint8)
        order, center, scale = cuda_rounding(bank)
        library.build_screen(
            *(address(bank), *sizes(rows, dim)),
            *(address(order), address(center), address(scale), address(screen)),
        )
    distances = torch.full((len(queries), k), torch.nan)
    indices = torch.full((len(queries), k), -7)
    library.nearest_neighbors(
        *(address(queries), *sizes(len(queries))),
        *(address(bank), *sizes(rows, dim)),
        None if screen is None else address(screen),
        None if workspace is None else address(workspace),
        *(*sizes(k), address(distances), address(indices)),
    )
    return distances, indices


def exact(queries: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances in the kernels' order of arithmetic: sums of 16 features, sums of 16 of those, and
    a total. Each step is rounded once."""
    dim = bank.shape[1]
    totals = torch.zeros(len(queries), len(bank))
    for part in range(0, dim, 256):
        of_part = torch.zeros_like(totals)
        for first in range(part, min(part + 256, dim), 16):
            sums = torch.zeros_like(totals)
            for d in range(first, min(first + 16, dim)):
                difference = (bank[:, d] - queries[:, d, None]).double()
                sums = (difference * difference + sums.double()).float()  # a fused multiply-add
            of_part = of_part + sums
        totals = totals + of_part
    distances, indices = torch.sort(totals, dim=1, stable=True)
    return distances[:, :k], indices[:, :k]


def normal(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def whole(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return (2 * normal(rows, dim, seed)).round()


def outliers(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    matrix = normal(rows, dim, seed)
    matrix[::37] *= 1000
    return matrix


def repeated(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return normal(11, dim)[torch.arange(seed, rows + seed) % 11]


MATRICES: dict[str, Callable[[int, int, int], torch.Tensor]] = {
    "normal": normal,
    "whole numbers": whole,
    "far offset": lambda rows, dim, seed: normal(rows, dim, seed) + 100,
    "outliers": outliers,
    "repeated": repeated,
    "constant": lambda rows, dim, _seed: torch.full((rows, dim), 2.5),
    "squares vanish": lambda rows, dim, seed: normal(rows, dim, seed) * 1e-23,
    "huge": lambda rows, dim, seed: normal(rows, dim, seed) * 1e16,
}


SIZES = [(5, 40, 3), (131, 300, 16), (40, 700, 37)]
# A third of all combinations, in which every two of matrix, k and size meet.
COMBINATIONS = [
    (name, k, SIZES[(i + j) % 3])
    for i, name in enumerate(MATRICES)
    for j, k in enumerate((1, 3, 32))
]


@pytest.mark.parametrize(("name", "k", "sizes"), COMBINATIONS)
def test_screened_search(
    emulated: Callable[[str], ctypes.CDLL], name: str, k: int, sizes: tuple[int, int, int]
) -> None:
    num_queries, num_rows, dim = sizes
    queries, bank = (MATRICES[name](rows, dim, rows % 2) for rows in (num_queries, num_rows))
    distances, indices = search(emulated("nearest_neighbors"), queries, bank, k, screened=True)
    expected_distances, expected_indices = exact(queries, bank, k)
    assert torch.equal(indices, expected_indices)
    assert torch.equal(distances, expected_distances)


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        *(("normal", dim) for dim in (255, 256, 257, 512, 600, 1030)),
        *(("whole numbers", dim) for dim in (257, 512, 600)),
        *(("repeated", dim) for dim in (255, 256, 1030)),
    ],
)
def test_more_features_than_a_part_of_a_sum(
    emulated: Callable[[str], ctypes.CDLL], name: str, dim: int
) -> None:
    queries, bank = MATRICES[name](9, dim, 1), MATRICES[name](130, dim, 0)
    expected = exact(queries, bank, 3)
    for screened in (False, True):
        found = search(emulated("nearest_neighbors"), queries, bank, 3, screened=screened)
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[0], expected[0])


def test_small_terms_behind_a_large_one_are_not_lost(
    emulated: Callable[[str], ctypes.CDLL],
) -> None:
    # Each is less than half of what the sum can tell apart.
    bank = torch.zeros(3, 4096)
    for row, step in zip(bank, (1, 16, 256), strict=True):
        row[step::step] = 5.9e-8**0.5
        row[0] = 1
    expected = bank.double().square().sum(dim=1).sort().values
    for screened in (False, True):
        library = emulated("nearest_neighbors")
        found, _ = search(library, torch.zeros(1, 4096), bank, 3, screened=screened)
        torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 40])
@pytest.mark.parametrize(
    ("num_queries", "num_rows", "dim"), [(1, 40, 1), (70, 130, 16), (64, 64, 37)]
)
def test_exhaustive_search(
    emulated: Callable[[str], ctypes.CDLL], k: int, num_queries: int, num_rows: int, dim: int
) -> None:
    queries, bank = whole(num_queries, dim, 1), whole(num_rows, dim, 2)
    found = search(emulated("nearest_neighbors"), queries, bank, k, screened=False)
    expected = exact(queries, bank, k)
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0], expected[0])


def test_queries_that_no_bound_separates(emulated: Callable[[str], ctypes.CDLL]) -> None:
    bank = normal(6000, 8)
    bank /= bank.norm(dim=1, keepdim=True)  # all as far from the origin
    queries = torch.cat([torch.zeros(3, 8), normal(2, 8, seed=1)])
    queries[1, 0] = 1e9  # float16 cannot hold it
    found = search(emulated("nearest_neighbors"), queries, bank, 2, screened=True)
    expected = exact(queries, bank, 2)
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0], expected[0])


def test_queries_without_finite_distances(emulated: Callable[[str], ctypes.CDLL]) -> None:
    queries, bank = normal(4, 20), normal(100, 20, seed=1)
    queries[1, 3] = torch.nan
    queries[2, 5] = torch.inf
    queries[3, 0] = 3e38
    for screened in (False, True):
        found = search(emulated("nearest_neighbors"), queries, bank, 1, screened=screened)
        assert found[1][0, 0] >= 0
        assert found[1][1:, 0].tolist() == [-1, -1, -1]
