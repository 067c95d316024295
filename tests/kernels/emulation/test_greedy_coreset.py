from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import pytest
import torch

from autopatch.kernels import reference
from autopatch.kernels._codes import cuda_codes


def coreset(
    library: ctypes.CDLL,
    features: torch.Tensor,
    count: int,
    start: int,
    *,
    processors: int,
    shared_bytes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, dim = (ctypes.c_int64(size) for size in features.shape)
    library.greedy_coreset_workspace.restype = ctypes.c_int64
    size = library.greedy_coreset_workspace(rows, dim, processors, shared_bytes)
    workspace = torch.full((size,), 255, dtype=torch.uint8)
    indices, radii = torch.full((count,), -7), torch.full((count,), torch.nan)
    center, inverse_scale = cuda_codes(features)

    def address(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    library.greedy_coreset(
        *(address(features), rows, dim, ctypes.c_int64(count), ctypes.c_int64(start)),
        *(address(center), address(inverse_scale), address(workspace)),
        *(address(indices), address(radii)),
    )
    return indices, radii


def normal(rows: int, dim: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows + dim))


def duplicated() -> torch.Tensor:
    return normal(20, 24)[torch.arange(400) % 20]


def grid_points() -> torch.Tensor:
    """Many ties."""
    return torch.cartesian_prod(*[torch.arange(5.0)] * 4)


def outliers() -> torch.Tensor:
    rows = normal(300, 33)
    rows[::50] *= 1000
    rows[7, 5] = 1e6
    return rows


CASES: dict[str, tuple[torch.Tensor, int]] = {
    "one row": (normal(1, 5), 1),
    "all rows": (normal(150, 3), 150),
    "one feature": (normal(300, 1), 60),
    "sixteen features": (normal(500, 16), 100),
    "odd features": (normal(600, 37), 80),
    "correlated": (torch.relu(normal(700, 6) @ normal(6, 48)), 70),
    "duplicated": (duplicated(), 60),
    "ties": (grid_points(), 100),
    "constant": (torch.full((200, 20), 3.25), 40),
    "outliers": (outliers(), 50),
    "offset": (normal(300, 40) + 1000, 50),
    "tiny": (normal(200, 20) * 1e-22, 30),
    "subnormal squares": (normal(200, 20) * 1e-38, 30),
    "huge": (normal(200, 20) * 1e18, 30),
    "beyond float32": (normal(200, 20) * 1e20, 30),
}


@functools.cache
def expected(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference's rows and radii of a case."""
    features, count = CASES[name]
    return reference.greedy_coreset(features, count, start=len(features) // 2)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("processors", "shared_bytes"), [(1, 200_000), (3, 200_000), (4, 20_000)])
def test_picks(
    emulated: Callable[[str], ctypes.CDLL], name: str, processors: int, shared_bytes: int
) -> None:
    features, count = CASES[name]
    start = len(features) // 2
    indices, radii = coreset(
        emulated("greedy_coreset"),
        features,
        count,
        start,
        processors=processors,
        shared_bytes=shared_bytes,
    )
    expected_indices, expected_radii = expected(name)
    assert torch.equal(indices, expected_indices)
    assert torch.equal(radii, expected_radii)
