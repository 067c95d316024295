from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import pytest
import torch

from autopatch.kernels import reference

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
Size = tuple[int, int, int]


def aggregate(
    library: ctypes.CDLL,
    maps: Sequence[torch.Tensor],
    patch_sizes: Sequence[int],
    out_size: tuple[int, int],
) -> torch.Tensor:
    """The kernel's output; NaN where it writes nothing."""
    levels = len(maps)
    shapes = [size for m in maps for size in m.shape[1:]]
    images, (height, width) = len(maps[0]), out_size
    out = torch.full((images * height * width, sum(m.shape[1] for m in maps)), torch.nan)
    library.aggregate_patches(
        levels,
        (ctypes.c_void_p * levels)(*(m.data_ptr() for m in maps)),
        (ctypes.c_int * levels)(*(TYPES[m.dtype] for m in maps)),
        (ctypes.c_int64 * (3 * levels))(*shapes),
        (ctypes.c_int * levels)(*(not m.is_contiguous() for m in maps)),
        (ctypes.c_int * levels)(*patch_sizes),
        *(ctypes.c_int64(images), ctypes.c_int64(height), ctypes.c_int64(width)),
        ctypes.c_void_p(out.data_ptr()),
    )
    return out


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("images", "sizes", "patch_sizes", "out_size"),
    [
        (2, [(3, 7, 9)], [1], (7, 9)),
        (2, [(24, 14, 14), (40, 7, 7), (112, 4, 4)], [3, 3, 3], (14, 14)),
        (1, [(5, 8, 6), (1, 5, 3), (17, 2, 2)], [2, 4, 1], (7, 5)),
        (3, [(90, 5, 5)], [5], (5, 5)),
        (1, [(2, 20, 31), (3, 16, 16)], [15, 16], (20, 31)),
        (1, [(3, 9, 9)], [3], (4, 20)),  # fewer rows, more columns
        (1, [(33, 1, 40)], [3], (1, 40)),
        (1, [(4, 6, 6)], [3], (1, 1)),
        (1, [(20, 12, 300)], [16], (12, 300)),  # tiles side by side
        (2, [(1, 3, 3)] * 40, [1, 3] * 20, (3, 3)),  # two launches
    ],
)
def test_patches(
    emulated: Callable[[str], ctypes.CDLL],
    dtype: torch.dtype,
    images: int,
    sizes: list[Size],
    patch_sizes: list[int],
    out_size: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(images, *size, generator=generator).to(dtype) for size in sizes]
    exact = reference.aggregate_patches([m.double() for m in maps], patch_sizes, out_size=out_size)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = aggregate(
            emulated("aggregate_patches"),
            [m.contiguous(memory_format=layout) for m in maps],
            patch_sizes,
            out_size,
        )
        torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=1e-6)


def test_maps_without_channels_behind_a_full_launch(
    emulated: Callable[[str], ctypes.CDLL],
) -> None:
    maps = [torch.full((1, 1, 2, 2), float(i)) for i in range(32)] + [torch.ones(1, 0, 2, 2)]
    found = aggregate(emulated("aggregate_patches"), maps, [1] * 33, (2, 2))
    assert torch.equal(found, torch.arange(32.0).expand(4, 32))
