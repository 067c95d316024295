from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from autopatch import _C
from autopatch.kernels import (
    NearestNeighborIndex,
    aggregate_patches,
    greedy_coreset,
    nearest_neighbors,
    pixel_metrics,
    region_weighted_average_precision,
)
from autopatch.kernels._codes import choose_coding

ops = torch.ops.autopatch


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps() -> list[torch.Tensor]:
    return [
        normal(2, 5, 8, 8),
        normal(2, 3, 4, 4, seed=1).contiguous(memory_format=torch.channels_last),
    ]


def index_of_five() -> NearestNeighborIndex:
    return NearestNeighborIndex(normal(5, 6))


CALLS: dict[str, tuple[Any, ...]] = {
    "nearest_neighbors": (normal(9, 6), normal(20, 6, seed=1), None, 3, False, 0),
    "greedy_coreset": (normal(20, 6), 5, -1, 0, 0),
    "aggregate_patches": (maps(), [3, 2], 8, 8, 0),
    "aggregate_patches_out": (maps(), [3, 2], 8, 8, torch.empty(128, 8), 0),
    "pixel_metrics": (
        normal(3, 8, 8),
        (normal(3, 8, 8, seed=1) > 1).byte(),
        torch.tensor([0, 1, 0], dtype=torch.int32),
        2,
        0,
    ),
}


# Each public function, called with the arguments of an operator.
FUNCTIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "nearest_neighbors": ("nearest_neighbors", lambda q, bank, *_: nearest_neighbors(q, bank, 3)),
    "index": ("nearest_neighbors", lambda _, bank, *__: NearestNeighborIndex(bank)),
    "search in an index": (
        "nearest_neighbors",
        lambda q, bank, *_: nearest_neighbors(q, NearestNeighborIndex.of_parts(bank, None)),
    ),
    "add": ("nearest_neighbors", lambda rows, bank, *_: index_of_five().add(rows)),
    "remove": ("nearest_neighbors", lambda rows, bank, *_: index_of_five().remove(rows.int())),
    "greedy_coreset": ("greedy_coreset", lambda rows, *_: greedy_coreset(rows, 5)),
    "aggregate_patches": ("aggregate_patches", lambda m, *_: aggregate_patches(m, [3, 2])),
    "aggregate_patches, out": (
        "aggregate_patches_out",
        lambda m, sizes, h, w, out, *_: aggregate_patches(m, sizes, out=out),
    ),
    "pixel_metrics": ("pixel_metrics", lambda s, m, *_: pixel_metrics(s, m, ["a", "b", "a"])),
    "rwAP": (
        "pixel_metrics",
        lambda s, m, *_: region_weighted_average_precision(s, m, ["a", "b", "a"]),
    ),
    **{f"operator {name}": (name, getattr(ops, name)) for name in CALLS},
}
NO_CUDA = [] if _C.cuda_built else ["cuda"]


def on_device(arguments: tuple[Any, ...], device: str) -> Any:
    """The arguments as fake tensors, which can be on missing devices."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return tree_map_only(
            torch.Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device=device), arguments
        )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("device", ["mps", "xpu", *NO_CUDA])
def test_devices_without_kernels_are_refused(function: str, device: str) -> None:
    name, call = FUNCTIONS[function]
    with pytest.raises(NotImplementedError) as caught:
        call(*on_device(CALLS[name], device))
    expected = f"^`[a-z_]+(\\[0\\])?` is on {device}:0, "
    expected += (
        f"but autopatch was built without CUDA: {re.escape(_C.cuda_reason)}; move the tensor with"
        if device == "cuda"
        else "expected cpu or cuda; move it with"
    )
    assert re.match(expected, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sparse_tensors_are_refused(function: str) -> None:
    name, call = FUNCTIONS[function]
    sparse = tree_map_only(torch.Tensor, torch.Tensor.to_sparse, CALLS[name])
    with pytest.raises(NotImplementedError, match=r"^`.+` has layout sparse_coo, expected a dense"):
        call(*sparse)


# Settings of the caller that change what torch's own functions return.
@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_torch_change_no_result(setting: str) -> None:
    # Rows that are coded along directions, and rows with too many features to code them all.
    rows = torch.relu(normal(4700, 8) @ normal(8, 64, seed=1)) + 0.01 * normal(4700, 64)
    wide, wide_queries = normal(20, 8200), normal(70, 8200, seed=1)
    feature_maps, scores, masks = maps(), normal(3, 8, 8), normal(3, 8, 8, seed=1) > 1

    def results() -> list[Any]:
        return [
            *nearest_neighbors(rows[4000:], rows[:4000]),
            *nearest_neighbors(rows[4000:], NearestNeighborIndex(rows[:4000])),
            *nearest_neighbors(wide_queries, NearestNeighborIndex(wide)),
            *greedy_coreset(rows, 600, seed=1),
            aggregate_patches(feature_maps, [3, 2]),
            choose_coding(rows).basis,
            pixel_metrics(scores, masks, ["a", "b", "a"]),
        ]

    expected = results()
    with SETTINGS[setting]():
        found = results()
    assert found[-1] == expected[-1]
    for tensor, wanted in zip(found[:-1], expected[:-1], strict=True):
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor, wanted)


def test_a_screen_of_another_kind_is_refused() -> None:
    queries, bank, _, *rest = CALLS["nearest_neighbors"]
    screen = NearestNeighborIndex(bank).screen
    assert screen is not None
    with pytest.raises(ValueError, match="`screen` does not belong to `bank`"):
        ops.nearest_neighbors(queries, bank, screen.to("meta"), *rest)
    with pytest.raises(NotImplementedError, match="`screen` has layout"):
        ops.nearest_neighbors(queries, bank, screen.to_sparse(), *rest)


def test_every_operator_has_a_call_here() -> None:
    names = {
        name.removeprefix("autopatch::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("autopatch::")
    }
    assert names == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(ops, name).default, CALLS[name])


def test_opcheck_on_each_device(device: torch.device) -> None:
    queries, bank, *rest = CALLS["nearest_neighbors"]
    torch.library.opcheck(
        ops.nearest_neighbors.default, (queries.to(device), bank.to(device), *rest)
    )


@pytest.mark.parametrize("name", [name for name in CALLS if not name.endswith("_out")])
def test_backward_raises(name: str) -> None:
    def with_gradient(argument: Any) -> Any:
        if isinstance(argument, list) and isinstance(argument[0], torch.Tensor):
            return [with_gradient(tensor) for tensor in argument]
        if isinstance(argument, torch.Tensor) and argument.is_floating_point():
            return argument.clone().requires_grad_()
        return argument

    results = getattr(ops, name)(*[with_gradient(argument) for argument in CALLS[name]])
    results = results if isinstance(results, tuple) else (results,)
    floating = next(result for result in results if result.is_floating_point())
    with pytest.raises(RuntimeError, match=f"autopatch::{name} has no gradient"):
        floating.sum().backward()


def test_out_refuses_what_requires_a_gradient() -> None:
    out = torch.empty(128, 8)
    required = [m.requires_grad_() for m in maps()]
    with pytest.raises(RuntimeError, match="aggregate_patches_out has no gradient"):
        aggregate_patches(required, [3, 2], out=out)
    with torch.no_grad():
        aggregate_patches(required, [3, 2], out=out)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: nearest_neighbors(x * 2, y, 2, num_threads=2),
        lambda x, y: greedy_coreset(torch.cat([x, y]) + 1, 5, start=2),
        lambda x, y: (aggregate_patches([x.reshape(1, 6, 3, -1), y.reshape(1, 6, 4, -1)], [3, 2]),),
    ],
    ids=["nearest_neighbors", "greedy_coreset", "aggregate_patches"],
)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_in_one_graph(function: Callable[..., Any], dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (9, 12):
        x, y = normal(rows, 6), normal(20, 6, seed=1)
        for found, expected in zip(compiled(x, y), function(x, y), strict=True):
            assert torch.equal(found, expected)


class Scores(nn.Module):
    """Feature maps to anomaly scores, as a detector computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", normal(30, 8, seed=2))

    def forward(self, deep: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        patches = aggregate_patches([shallow, deep], [3, 1])
        distances, _ = nearest_neighbors(patches, self.bank)
        return distances.reshape(shallow.shape[0], *shallow.shape[2:])


def test_exported_with_a_dynamic_batch_and_saved() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    module = Scores().eval()
    example = (normal(2, 3, 4, 4), normal(2, 5, 8, 8))
    program = torch.export.export(module, example, dynamic_shapes=({0: batch}, {0: batch}))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for images in (1, 2, 5):
        inputs = normal(images, 3, 4, 4, seed=images), normal(images, 5, 8, 8, seed=images)
        assert torch.equal(loaded(*inputs), module(*inputs))


def test_meta_tensors_give_shapes() -> None:
    queries, bank = torch.empty(9, 6, device="meta"), torch.empty(20, 6, device="meta")
    distances, indices = nearest_neighbors(queries, bank, 3)
    assert (distances.shape, distances.dtype) == ((9, 3), torch.float32)
    assert (indices.shape, indices.dtype) == ((9, 3), torch.int64)
    indices, radii = greedy_coreset(bank, 7)
    assert indices.shape == radii.shape == (7,)
    assert aggregate_patches([torch.empty(2, 3, 4, 5, device="meta")], [3]).shape == (40, 3)
    index = NearestNeighborIndex(torch.empty(100_000, 6, device="meta"))
    assert index.screen is None
    index.add(bank)
    assert nearest_neighbors(queries, index)[0].shape == (9, 1)
    assert len(index) == 100_020
    with pytest.raises(NotImplementedError, match="no values"):
        index.remove(torch.tensor([0]))
    with pytest.raises(ValueError, match="`queries` is on cpu, `bank` on meta"):
        nearest_neighbors(normal(9, 6), index)
    scores, masks, types, *rest = CALLS["pixel_metrics"]
    with pytest.raises(NotImplementedError, match="`scores` is on meta"):
        pixel_metrics(scores.to("meta"), masks.to("meta"), ["a", "b", "a"])
    values = ops.pixel_metrics(scores.to("meta"), masks.to("meta"), types.to("meta"), *rest)
    assert (values.shape, values.dtype) == ((6,), torch.float64)


def test_errors_of_the_data_are_raised_in_compiled_graphs_too() -> None:
    torch._dynamo.reset()
    index = NearestNeighborIndex(normal(20, 6))
    compiled = torch.compile(
        lambda queries: nearest_neighbors(queries, index), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(index.bank)[1][:, 0], torch.arange(20))
    with pytest.raises(
        ValueError, match="row 3 of `queries` has fewer than `k` finite squared distances"
    ):
        compiled(index.bank.index_fill(0, torch.tensor([3]), torch.nan))


def test_direct_calls_are_checked_as_the_functions_are() -> None:
    ops = torch.ops.autopatch
    rows, narrow = torch.zeros(5, 6), torch.zeros(5, 2)
    with pytest.raises(ValueError, match="6 columns"):
        ops.nearest_neighbors(rows, narrow, None, 1, False, 1)
    with pytest.raises(TypeError, match="float64"):
        ops.nearest_neighbors(rows.double(), rows.double(), None, 1, False, 1)
    with pytest.raises(ValueError, match="`k` is 6"):
        ops.nearest_neighbors(rows, rows, None, 6, False, 1)
    with pytest.raises(ValueError, match="`start` is 5"):
        ops.greedy_coreset(rows, 2, 5, 0, 1)
    with pytest.raises(ValueError, match="`count` is 6"):
        ops.greedy_coreset(rows, 6, 0, 0, 1)
    maps = [torch.zeros(1, 2, 3, 3)]
    with pytest.raises(ValueError, match="`num_threads` is -1"):
        ops.aggregate_patches(maps, [1], 3, 3, -1)
    with pytest.raises(ValueError, match="`patch_sizes"):
        ops.aggregate_patches(maps, [17], 3, 3, 1)
    with pytest.raises(ValueError, match="`out`"):
        ops.aggregate_patches_out(maps, [1], 3, 3, torch.zeros(8, 2), 1)
    scores, masks = torch.zeros(2, 3, 3), torch.ones(2, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="type_indices"):
        ops.pixel_metrics(scores, masks, torch.tensor([0, 7], dtype=torch.int32), 2, 1)
    with pytest.raises(ValueError, match="`num_types` is -1"):
        ops.pixel_metrics(scores, masks, torch.zeros(2, dtype=torch.int32), -1, 1)
    with pytest.raises(ValueError, match="`types` has 1 entries"):
        ops.pixel_metrics(scores, masks, torch.zeros(1, dtype=torch.int32), 1, 1)
