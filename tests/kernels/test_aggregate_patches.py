from __future__ import annotations

import ctypes
import json
import mmap
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autopatch import _C
from autopatch.kernels import aggregate_patches, nearest_neighbors, reference

FIXTURES = Path(__file__).with_name("fixtures")
CASES: list[dict[str, Any]] = json.loads((FIXTURES / "patch.json").read_text())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def channels_last(feature_map: torch.Tensor) -> torch.Tensor:
    return feature_map.contiguous(memory_format=torch.channels_last)


def assert_aggregates(
    found: torch.Tensor, maps: list[torch.Tensor], patch_sizes: list[int], **options: Any
) -> None:
    """Within 1e-6 of float64, with values of ordinary size."""
    expected = reference.aggregate_patches([m.double() for m in maps], patch_sizes, **options)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "patch.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_original_values(
    isa: str, case: dict[str, Any], threads: int, arrays: dict[str, np.ndarray]
) -> None:
    def patches(part: str) -> np.ndarray:
        return aggregate_patches(
            [arrays[f"{case['id']:02d}_{part}_layer{i}"] for i in range(len(case["layers"]))],
            case["patch_sizes"],
            num_threads=threads,
        )

    test = patches("test")
    expected = {
        name: arrays[f"{case['id']:02d}_test_{name}"]
        if name == "patches"
        else arrays[f"{case['id']:02d}_{name}"]
        for name in ("patches", "patch_scores", "map")
    }
    np.testing.assert_allclose(test, expected["patches"], rtol=0, atol=1e-6)

    bank = np.concatenate([patches(f"train{i}") for i in range(case["n_train_batches"])])
    assert bank.shape == (case["memory_bank_rows"], case["channels"])
    scores, _ = nearest_neighbors(test, bank, num_threads=threads)
    scores = scores.reshape(case["n_test"], *case["patch_resolution"])
    scale = expected["patch_scores"].max()
    np.testing.assert_allclose(scores, expected["patch_scores"], rtol=0, atol=1e-5 * scale)

    maps = nn.functional.interpolate(
        torch.from_numpy(scores)[:, None], size=case["img_size"], mode="bilinear"
    )
    expected_maps = torch.from_numpy(expected["map"]).reshape(maps[:, 0].shape)
    torch.testing.assert_close(
        maps[:, 0], expected_maps, rtol=0, atol=1e-5 * float(expected_maps.max())
    )


@pytest.mark.parametrize("patch_size", range(1, 17))
def test_every_patch_size_matches_the_reference(isa: str, patch_size: int) -> None:
    for height, width, channels in [(2, 2, 1), (2, 9, 3), (7, 5, 16), (17, 31, 17), (33, 16, 50)]:
        maps = [normal(2, channels, height, width, seed=height)]
        for threads in (1, 2, 3):
            found = aggregate_patches(maps, [patch_size], num_threads=threads)
            # An even patch size leaves one position less, resized back to the map's own size.
            assert found.shape == (2 * height * width, channels)
            assert_aggregates(found, maps, [patch_size])


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 14, 15, 16, 17, 31, 32, 33])
def test_every_resize_matches_the_reference(isa: str, length: int) -> None:
    maps = [normal(1, 3, length, length)]
    for height, width in [(1, 1), (2, 5), (16, 16), (37, 56), (length, 3), (length, length)]:
        found = aggregate_patches(maps, [1], out_size=(height, width))
        assert_aggregates(found, maps, [1], out_size=(height, width))


def test_levels_stand_side_by_side(isa: str) -> None:
    maps = [normal(3, 5, 9, 9), normal(3, 7, 5, 5, seed=1), normal(3, 16, 3, 3, seed=2)]
    found = aggregate_patches(maps, [3, 2, 5])
    assert found.shape == (3 * 81, 28)
    assert_aggregates(found, maps, [3, 2, 5])
    alone = [
        aggregate_patches([m], [p], out_size=(9, 9)) for m, p in zip(maps, [3, 2, 5], strict=True)
    ]
    assert torch.equal(found, torch.cat(alone, dim=1))


def test_a_constant_map_stays_constant_inside_and_darkens_at_borders(isa: str) -> None:
    found = aggregate_patches([torch.ones(1, 1, 6, 6)], [3]).reshape(6, 6)
    torch.testing.assert_close(found[1:-1, 1:-1], torch.ones(4, 4))
    torch.testing.assert_close(found[0, 1:-1], torch.full((4,), 2 / 3))
    torch.testing.assert_close(found[0, 0], torch.tensor(4 / 9))


@pytest.mark.parametrize("patch_size", [1, 2, 3, 9, 16])
def test_every_layout_and_channel_count_matches_the_reference(isa: str, patch_size: int) -> None:
    for channels in (1, 3, 4, 7, 8, 12, 15, 16, 17, 24, 31, 33, 40):
        # The second map begins within a vector, at another place in each row.
        maps = [
            normal(2, channels, 9, 7, seed=channels),
            normal(2, 19, 5, 17, seed=channels + 1),
            normal(2, channels, 3, 3, seed=channels + 2),
        ]
        patch_sizes = [patch_size, 3, patch_size]
        found = aggregate_patches(maps, patch_sizes)
        assert_aggregates(found, maps, patch_sizes)
        for in_nhwc in ((0, 1, 2), (0,), (1, 2)):
            mixed = [channels_last(m) if i in in_nhwc else m for i, m in enumerate(maps)]
            assert torch.equal(aggregate_patches(mixed, patch_sizes), found)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 20])
def test_layout_and_threads_do_not_change_the_result(isa: str, threads: int) -> None:
    maps = [normal(3, 19, 14, 11), normal(3, 33, 7, 6, seed=1)]
    expected = aggregate_patches(maps, [3, 4], num_threads=1)
    transposed = [m.transpose(2, 3).contiguous().transpose(2, 3) for m in maps]
    sliced = [m.repeat_interleave(2, dim=0)[::2] for m in maps]
    mixed = [maps[0], channels_last(maps[1])]
    for views in (maps, [channels_last(m) for m in maps], mixed, transposed, sliced):
        found = aggregate_patches(views, [3, 4], num_threads=threads)
        assert torch.equal(found, expected)


def test_the_isa_does_not_change_the_result(isa: str, arrays: dict[str, np.ndarray]) -> None:
    cases = [
        ([arrays[f"03_test_layer{i}"] for i in range(3)], CASES[3]["patch_sizes"]),
        *(([normal(2, 45, 13, 18), normal(2, 23, 5, 5)], [p, 17 - p]) for p in range(1, 17)),
    ]
    found = [aggregate_patches(*case) for case in cases]
    _C.set_active_isa("generic")  # the fixture sets it back
    for case, rows in zip(cases, found, strict=True):
        np.testing.assert_array_equal(rows, aggregate_patches(*case))


@pytest.mark.parametrize("patch_size", [3, 8, 15])
def test_equal_patches_have_equal_features(isa: str, patch_size: int) -> None:
    maps = [1e3 * normal(1, 5, 20, 23).repeat(1, 1, 3, 3)]
    shrink = 1 - patch_size % 2
    size = (60 - shrink, 69 - shrink)  # not resized
    rows = aggregate_patches(maps, [patch_size], out_size=size).reshape(*size, 5)
    assert torch.equal(rows[10:30, 10:33], rows[30:50, 33:56])


# More than a tile of the output holds, than one write of all levels has channels, and than it has
# levels; the narrow maps have rows that alone are more than a tile.
LARGE: list[tuple[list[tuple[int, ...]], list[int], dict[str, Any]]] = [
    ([(1, 72, 150, 130), (1, 130, 70, 60)], [15, 4], {}),
    ([(2, 700, 12, 9), (2, 800, 5, 4), (2, 9, 3, 3)], [3, 16, 2], {}),
    ([(1, 1 + i % 5, 6, 5) for i in range(150)], [1 + i % 5 for i in range(150)], {}),
    ([(1, 100, 2, 3000), (1, 50, 3, 900)], [2, 3], {"out_size": (3, 2500)}),
    ([(1, 100, 400, 40)], [5], {"out_size": (9, 7)}),
]


@pytest.mark.parametrize(("shapes", "patch_sizes", "options"), LARGE, ids=range(len(LARGE)))
def test_large_maps_are_aggregated_in_parts(
    isa: str, shapes: list[tuple[int, ...]], patch_sizes: list[int], options: dict[str, Any]
) -> None:
    maps = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    found = aggregate_patches(maps, patch_sizes, num_threads=1, **options)
    assert_aggregates(found, maps, patch_sizes, **options)
    in_nhwc = [channels_last(m) for m in maps]
    for threads in (2, 20):  # which have smaller workspaces, so smaller parts
        assert torch.equal(
            aggregate_patches(in_nhwc, patch_sizes, num_threads=threads, **options), found
        )


@pytest.mark.parametrize("threads", [1, 2, 20])
def test_workspace_is_bounded(
    isa: str, threads: int, memory_taken: Callable[[Callable[[], object]], int]
) -> None:
    for shape, patch_size, size in [
        ((1, 32, 512, 512), 1, (512, 512)),
        ((1, 32, 512, 512), 3, (512, 512)),
        ((1, 2100, 40, 40), 16, (40, 40)),
        ((1, 20, 2, 30_000), 2, (3, 20_000)),
    ]:
        maps, out = [torch.ones(shape)], torch.ones(size[0] * size[1], shape[1])
        aggregate = partial(
            aggregate_patches, maps, [patch_size], out_size=size, out=out, num_threads=threads
        )
        assert memory_taken(aggregate) < min(4 * threads, 64) * 2**20 + 2**20


def test_out_is_written_and_returned(isa: str) -> None:
    maps = [normal(2, 5, 8, 8), normal(2, 4, 4, 4, seed=1)]
    expected = aggregate_patches(maps, [3, 1])
    out = torch.full((128, 9), torch.nan)
    assert aggregate_patches(maps, [3, 1], out=out) is out
    assert torch.equal(out, expected)
    array = np.full((128, 9), np.nan, np.float32)
    assert aggregate_patches(maps, [3, 1], out=array) is array
    np.testing.assert_array_equal(array, expected.numpy())
    rows = torch.full((4, 128, 9), torch.nan)
    aggregate_patches(maps, [3, 1], out=rows[2])  # a batch of a larger bank
    assert torch.equal(rows[2], expected)
    assert rows[[0, 1, 3]].isnan().all()


@pytest.mark.parametrize("offset", [*range(1, 18), 31])
def test_out_may_begin_anywhere(isa: str, offset: int) -> None:
    for channels in ((24, 40), (3, 2), (1,), (17, 16)):
        maps = [normal(2, c, 5, 7, seed=c) for c in channels]
        patch_sizes = [3] * len(maps)
        expected = aggregate_patches(maps, patch_sizes)
        memory = torch.full((offset + expected.numel() + 20,), torch.nan)
        out = memory[offset : offset + expected.numel()].view_as(expected)
        aggregate_patches(maps, patch_sizes, out=out, num_threads=2)
        assert torch.equal(out, expected)
        assert memory[:offset].isnan().all()
        assert memory[offset + expected.numel() :].isnan().all()


def guarded(values: torch.Tensor, at_end: bool) -> torch.Tensor:
    """A contiguous copy that begins or ends where memory does: access beyond it crashes."""
    page, size = mmap.PAGESIZE, values.numel() * values.element_size()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for guard in (address, address + (pages + 1) * page):
        assert protect(guard, page, 0) == 0
    offset = page + (pages * page - size if at_end else 0)
    copy = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=offset)
    return copy.view(values.shape).copy_(values)


@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("patch_size", [1, 3, 16])
def test_no_access_beyond_maps_and_out(isa: str, patch_size: int, at_end: bool) -> None:
    for channels in (1, 17, 24):
        for height, width in ((2, 3), (16, 17)):
            feature_map = normal(2, channels, height, width)
            in_nhwc = guarded(feature_map.permute(0, 2, 3, 1).contiguous(), at_end)
            for out_size in ((height, width), (7, 6)):
                expected = aggregate_patches([feature_map], [patch_size], out_size=out_size)
                out = guarded(torch.zeros_like(expected), at_end)
                for m in (guarded(feature_map, at_end), in_nhwc.permute(0, 3, 1, 2)):
                    aggregate_patches([m], [patch_size], out_size=out_size, out=out)
                    assert torch.equal(out, expected)


def test_a_large_fresh_output_asks_for_huge_pages(isa: str) -> None:
    maps = [channels_last(normal(11, 300, 16, 16).repeat(1, 1, 4, 4))]  # 54 MB
    found = aggregate_patches(maps, [1])
    assert torch.equal(found, maps[0].permute(0, 2, 3, 1).flatten(0, 2))
    if not Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        pytest.skip("the kernel has no transparent huge pages")
    for part in re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M
    ):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", part)
        if bounds and int(bounds[1], 16) <= found.data_ptr() < int(bounds[2], 16):
            assert "hg" in part.partition("VmFlags:")[2].split()
            break
    else:
        pytest.fail("the output is in no mapping")


def read_only() -> np.ndarray:
    array = np.empty((64, 2), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (torch.empty(63, 2), ValueError, r"`out` has shape \[63, 2\], expected \[64, 2\]"),
        (torch.empty(2, 64).t(), ValueError, "without gaps between rows"),
        (torch.empty(64, 3)[:, :2], ValueError, "without gaps between rows"),
        (torch.empty(64, 2).double(), TypeError, "`out` has dtype float64, expected float32"),
        (np.empty((64, 2), np.float32)[::-1], ValueError, "`out` is read-only, not contiguous"),
        (read_only(), ValueError, "`out` is read-only, not contiguous"),
    ],
    ids=["shape", "transposed", "gaps", "dtype", "reversed", "read-only"],
)
def test_unfit_out_is_an_error(out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        aggregate_patches([normal(1, 2, 8, 8)], [3], out=out)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("patch_size", [1, 2, 3, 8, 16])
def test_bad_values_reach_exactly_the_patches_that_see_them(
    isa: str, patch_size: int, value: float
) -> None:
    for size, out_size in [((12, 9), (12, 9)), ((7, 7), (28, 14)), ((9, 9), (3, 5))]:
        feature_map = normal(2, 3, *size)
        feature_map[1, 2, size[0] // 2, 3] = value
        feature_map[0, 0, 0, 0] = value
        maps = [feature_map.double()]
        expected = reference.aggregate_patches(maps, [patch_size], out_size=out_size)
        for m in (feature_map, feature_map.contiguous(memory_format=torch.channels_last)):
            found = aggregate_patches([m], [patch_size], out_size=out_size)
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.isinf(), expected.isinf())
        assert 0 < int((~expected.isfinite()).sum()) < expected.numel()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_bad_values_stay_local_in_every_layout(isa: str, value: float) -> None:
    for patch_size in range(1, 17):
        feature_map = normal(1, 21, 40, 30)
        feature_map[0, 4, 20, 15] = value
        feature_map[0, 20, 39, 29] = value
        padding = (patch_size - 1) // 2
        sees = torch.zeros(21, 40, 30, dtype=torch.bool)
        for channel, y, x in ((4, 20, 15), (20, 39, 29)):
            top, left = max(y + padding - patch_size + 1, 0), max(x + padding - patch_size + 1, 0)
            sees[channel, top : y + padding + 1, left : x + padding + 1] = True
        shrink = 1 - patch_size % 2
        size = (40 - shrink, 30 - shrink)  # not resized
        expected = sees[:, : size[0], : size[1]].permute(1, 2, 0).flatten(0, 1)
        for m in (feature_map, channels_last(feature_map)):
            for threads in (1, 3):
                found = aggregate_patches([m], [patch_size], out_size=size, num_threads=threads)
                assert torch.equal(~found.isfinite(), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_bad_values_of_small_maps_are_those_of_torch(isa: str, value: float) -> None:
    for size in ((1, 1), (1, 4), (2, 1), (2, 2)):  # positions are exact in torch too
        feature_map = normal(1, 2, *size)
        feature_map[0, 1, -1, 0] = value
        for out_size in ((1, 1), (1, 4), (4, 2), (2, 8), size):
            expected = reference.aggregate_patches([feature_map.double()], [1], out_size=out_size)
            found = aggregate_patches([feature_map], [1], out_size=out_size)
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.isinf(), expected.isinf())


def test_empty_sizes() -> None:
    assert aggregate_patches([torch.empty(0, 3, 4, 4)], [3]).shape == (0, 3)
    assert aggregate_patches([torch.empty(2, 0, 4, 4)], [3]).shape == (32, 0)
    ones = torch.ones(1, 2, 4, 4)
    assert (aggregate_patches([ones[:, :0], ones], [3, 1]) == 1).all()
    for shape in ((1, 3, 0, 4), (1, 3, 4, 0)):
        with pytest.raises(ValueError, match="nothing is left after pooling with patch size 3"):
            aggregate_patches([torch.empty(shape)], [3])
    with pytest.raises(ValueError, match="nothing is left after pooling with patch size 2"):
        aggregate_patches([torch.empty(1, 3, 1, 4)], [2])
    for patch_size in (1, 3, 15):
        found = aggregate_patches([torch.ones(1, 1, 1, 1)], [patch_size])
        assert found.tolist() == [[pytest.approx(1 / patch_size**2)]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(dtype: torch.dtype) -> None:
    maps = [normal(1, 4, 8, 8).to(dtype)]
    assert torch.equal(aggregate_patches(maps, [3]), aggregate_patches([maps[0].float()], [3]))


def test_numpy_in_numpy_out() -> None:
    maps = [normal(2, 4, 8, 8), normal(2, 3, 4, 4)]
    expected = aggregate_patches(maps, [3, 1])
    found = aggregate_patches([m.numpy() for m in maps], [3, 1])
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize(
    ("maps", "patch_sizes", "options", "error", "message"),
    [
        ([], [], {}, ValueError, "`feature_maps` is empty"),
        ([torch.ones(1, 1, 4, 4)], [3, 3], {}, ValueError, "has 2 entries, `feature_maps` has 1"),
        ([torch.ones(1, 4, 4)], [3], {}, ValueError, r"shape \[1, 4, 4\], expected \[N, C, H, W\]"),
        (
            [torch.ones(1, 1, 4, 4), torch.ones(2, 1, 2, 2)],
            [1, 1],
            {},
            ValueError,
            r"`feature_maps\[1\]` holds 2 images, `feature_maps\[0\]` 1",
        ),
        (
            [torch.ones(1, 1, 4, 4)],
            [0],
            {},
            ValueError,
            r"`patch_sizes\[0\]` is 0, expected 1 to 16",
        ),
        ([torch.ones(1, 1, 4, 4)], [17], {}, ValueError, r"`patch_sizes\[0\]` is 17"),
        (
            [torch.ones(1, 1, 4, 4)],
            [1],
            {"out_size": (0, 4)},
            ValueError,
            r"`out_size` is \(0, 4\)",
        ),
        ([torch.ones(1, 1, 4, 4)], [1], {"num_threads": 0}, ValueError, "`num_threads` is 0"),
        (
            [torch.ones(1, 1, 4, 4).int()],
            [1],
            {},
            TypeError,
            r"`feature_maps\[0\]` has dtype int32",
        ),
    ],
)
def test_wrong_arguments_are_named(
    maps: list[torch.Tensor],
    patch_sizes: list[int],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        aggregate_patches(maps, patch_sizes, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layouts", ["NCHW", "channels last", "mixed", "neither"])
@pytest.mark.parametrize(
    ("images", "sizes", "patch_sizes", "out_size"),
    [
        (3, [(24, 56, 56), (40, 28, 28), (112, 14, 14), (160, 7, 7)], [3, 3, 3, 3], None),
        (2, [(17, 31, 33), (1, 9, 5), (90, 4, 4)], [9, 5, 3], None),
        (1, [(5, 64, 300), (3, 20, 20)], [16, 2], None),
        (2, [(7, 20, 20)], [15], (3, 41)),
        (300, [(1, 1, 1), (2, 3, 3)], [1, 3], None),
        (1, [(1, 4, 4)] * 70, [1, 2] * 35, None),
    ],
    ids=["four levels", "odd", "wide", "resized", "many images", "many levels"],
)
def test_every_device_gives_the_reference_s_result(
    device: torch.device,
    dtype: torch.dtype,
    layouts: str,
    images: int,
    sizes: list[tuple[int, int, int]],
    patch_sizes: list[int],
    out_size: tuple[int, int] | None,
) -> None:
    maps = [normal(images, *size, seed=i).to(dtype) for i, size in enumerate(sizes)]
    on_device = []
    for i, feature_map in enumerate(maps):
        moved = feature_map.to(device)
        if layouts == "neither":
            moved = moved.transpose(1, 3).contiguous().transpose(1, 3)[:, :, :, :]
        elif layouts == "channels last" or (layouts == "mixed" and i % 2):
            moved = channels_last(moved)
        on_device.append(moved)
    found = aggregate_patches(on_device, patch_sizes, out_size=out_size)
    assert found.device.type == device.type
    assert_aggregates(found.cpu(), maps, patch_sizes, out_size=out_size)


def test_bad_values_are_those_of_the_cpu(device: torch.device) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        for patch_size in (1, 2, 3, 16):
            maps = [normal(2, 5, 20, 20), normal(2, 3, 20, 20, seed=1)]
            maps[0][1, 2, 7, 19] = value
            maps[1][0, 0, 0, 3] = value
            expected = aggregate_patches(maps, [patch_size, 1])
            found = aggregate_patches([m.to(device) for m in maps], [patch_size, 1]).cpu()
            # Where a map keeps its size torch multiplies by zero on a CPU, and not on a GPU.
            assert torch.equal(found.isfinite(), expected.isfinite())
            finite = expected.isfinite()
            torch.testing.assert_close(found[finite], expected[finite], rtol=1e-6, atol=1e-6)


def test_out_on_every_device(device: torch.device) -> None:
    maps = [normal(2, 5, 9, 9).to(device), normal(2, 7, 5, 5, seed=1).to(device)]
    out = torch.full((2 * 81, 12), torch.nan, device=device)
    assert aggregate_patches(maps, [3, 2], out=out) is out
    assert torch.equal(out, aggregate_patches(maps, [3, 2]))


@pytest.mark.cuda
def test_cuda_graph_of_an_aggregation() -> None:
    maps = [normal(2, 5, 9, 9).cuda(), channels_last(normal(2, 7, 5, 5, seed=1).cuda())]
    out = torch.empty(2 * 81, 12, device="cuda")
    aggregate_patches(maps, [3, 2], out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        aggregate_patches(maps, [3, 2], out=out)
    for seed in (2, 3):
        for feature_map in maps:
            feature_map.copy_(normal(*feature_map.shape, seed=seed))
        graph.replay()
        assert_aggregates(out.cpu(), [m.cpu() for m in maps], [3, 2])


@pytest.mark.cuda
def test_maps_on_two_devices_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"`feature_maps\[1\]` is on cpu, .* on cuda:0"):
        aggregate_patches([torch.ones(1, 1, 4, 4, device="cuda"), torch.ones(1, 1, 4, 4)], [1, 1])
