"""The operators `torch.ops.autopatch.*`.

Each has a schema, an implementation per device, a fake implementation (shapes and dtypes only, for
`torch.compile` and `torch.export`) and an autograd rule that raises. Implementations allocate with
torch and hand addresses to `autopatch._C`; data-dependent checks live here too, where compiled
graphs meet them as well. The functions in this package are the interface to use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from autopatch import _C
from autopatch.errors import InputError
from autopatch.kernels import _checks
from autopatch.kernels._codes import (
    coreset_coding,
    cuda_codes,
    make_cuda_screen,
    make_screen,
    worth_a_screen,
)

Operator = Callable[..., Any]

_library = torch.library.Library("autopatch", "DEF")


def _no_gradient(name: str) -> Operator:
    def backward(_context: Any, *_gradients: Any) -> None:
        raise RuntimeError(f"autopatch::{name} has no gradient; call it under torch.no_grad()")

    return backward


def _built_with_cuda(name: str, cuda: Operator) -> Operator:
    def run(*args: Any) -> Any:
        if not _C.cuda_built:
            raise NotImplementedError(
                f"autopatch was built without CUDA, so {name} cannot run on a GPU; "
                "reinstall where nvcc is found (-DAUTOPATCH_CUDA=ON) or move tensors with .cpu()"
            )
        return cuda(*args)

    return run


def define(schema: str, *, cpu: Operator, cuda: Operator, fake: Operator) -> None:
    """Registers `autopatch::<schema>`. Operators that write to an argument get no autograd rule:
    torch has none for them, and their callers refuse inputs that require a gradient."""
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    _library.impl(name, cpu, "CPU")
    _library.impl(name, _built_with_cuda(name, cuda), "CUDA")
    torch.library.register_fake(f"autopatch::{name}", fake, lib=_library)
    if "!" not in schema:
        torch.library.register_autograd(f"autopatch::{name}", _no_gradient(name), lib=_library)


def threads(num_threads: int) -> int:
    """Resolves the operators' thread argument, in which 0 stands for torch's own count."""
    return num_threads or torch.get_num_threads()


def check_finite(name: str, tensor: torch.Tensor, num_threads: int) -> None:
    """Raises ValueError where `tensor` holds NaN or infinity."""
    if tensor.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            return  # a graph cannot tell the host
        # Of NaN both are NaN. `isfinite` of all values would take five bytes for each.
        finite = tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())
    else:
        finite = _C.all_finite(tensor.data_ptr(), tensor.numel(), threads(num_threads))
    if not finite:
        raise ValueError(f"`{name}` holds NaN or infinity")


# --- nearest_neighbors -------------------------------------------------------------------------


def _nearest_outputs(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


def _nearest_cpu(
    queries: torch.Tensor,
    bank: torch.Tensor,
    screen: torch.Tensor | None,
    k: int,
    bank_is_finite: bool,
    num_threads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    _checks.check_nearest(queries, bank, k)
    if screen is not None:
        _checks.check_screen(screen, bank)
    queries, bank = queries.contiguous(), bank.contiguous()
    if not bank_is_finite:
        check_finite("bank", bank, num_threads)
    if screen is None and worth_a_screen(queries.shape[0], bank):
        screen = make_screen(bank, threads(num_threads))
    distances, indices = _nearest_outputs(queries, k)
    _C.nearest_neighbors(
        queries.data_ptr(),
        queries.shape[0],
        bank.data_ptr(),
        bank.shape[0],
        bank.shape[1],
        0 if screen is None else screen.data_ptr(),
        k,
        distances.data_ptr(),
        indices.data_ptr(),
        threads(num_threads),
    )
    return distances, indices


def _nearest_cuda(
    queries: torch.Tensor,
    bank: torch.Tensor,
    screen: torch.Tensor | None,
    k: int,
    bank_is_finite: bool,
    num_threads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    _checks.check_nearest(queries, bank, k)
    with torch.cuda.device_of(queries):
        queries, bank = queries.contiguous(), bank.contiguous()
        if not bank_is_finite:
            check_finite("bank", bank, num_threads)
        if screen is not None:
            _checks.check_cuda_screen(screen, bank)
        elif k <= _C.max_screened_neighbors and worth_a_screen(queries.shape[0], bank):
            screen = make_cuda_screen(bank)
        workspace = None
        if screen is not None and k <= _C.max_screened_neighbors:
            size = _C.nearest_neighbors_cuda_workspace(queries.shape[0], *bank.shape)
            workspace = torch.empty(size, dtype=torch.uint8, device=queries.device)
        distances, indices = _nearest_outputs(queries, k)
        _C.nearest_neighbors_cuda(
            queries.data_ptr(),
            queries.shape[0],
            bank.data_ptr(),
            bank.shape[0],
            bank.shape[1],
            0 if screen is None else screen.data_ptr(),
            0 if workspace is None else workspace.data_ptr(),
            k,
            distances.data_ptr(),
            indices.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
        if torch.cuda.is_current_stream_capturing():
            return distances, indices  # a graph cannot tell the host: the index stays -1
    missing = (indices[:, -1] < 0).nonzero()
    if len(missing):
        raise ValueError(
            f"row {int(missing[0])} of `queries` has fewer than `k` finite squared distances to "
            "`bank`: it holds NaN, infinity or values beyond the range of float32"
        )
    return distances, indices


def _nearest_fake(
    queries: torch.Tensor,
    bank: torch.Tensor,
    screen: torch.Tensor | None,
    k: int,
    bank_is_finite: bool,
    num_threads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    _checks.check_nearest(queries, bank, k)
    return _nearest_outputs(queries, k)


define(
    "nearest_neighbors(Tensor queries, Tensor bank, Tensor? screen, int k, bool bank_is_finite,"
    " int num_threads) -> (Tensor, Tensor)",
    cpu=_nearest_cpu,
    cuda=_nearest_cuda,
    fake=_nearest_fake,
)


# --- greedy_coreset ----------------------------------------------------------------------------


def _coreset_outputs(features: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return features.new_empty((count,), dtype=torch.int64), features.new_empty((count,))


def _coreset_inputs(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, int]:
    """Contiguous features and the first pick."""
    _checks.check_coreset(features, count, None if start == -1 else start)
    features = features.contiguous()
    check_finite("features", features, num_threads)
    if start == -1:
        generator = torch.Generator().manual_seed(seed)
        start = int(torch.randint(features.shape[0], (), generator=generator))
    return features, start


def _coreset_cpu(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    features, start = _coreset_inputs(features, count, start, seed, num_threads)
    indices, radii = _coreset_outputs(features, count)
    coding = coreset_coding(features, count)
    _C.greedy_coreset(
        features.data_ptr(),
        features.shape[0],
        features.shape[1],
        count,
        start,
        0 if coding is None else coding.mean.data_ptr(),
        0 if coding is None else coding.basis_address,
        0 if coding is None else coding.width,
        0.0 if coding is None else coding.basis_error,
        indices.data_ptr(),
        radii.data_ptr(),
        threads(num_threads),
    )
    return indices, radii


def _coreset_cuda(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.cuda.device_of(features):
        features, start = _coreset_inputs(features, count, start, seed, num_threads)
        _checks.check_cuda_columns(features)
        rows, dim = features.shape
        indices, radii = _coreset_outputs(features, count)
        center, inverse_scale = cuda_codes(features)
        workspace = features.new_empty(
            (_C.greedy_coreset_cuda_workspace(rows, dim),), dtype=torch.uint8
        )
        _C.greedy_coreset_cuda(
            features.data_ptr(),
            rows,
            dim,
            count,
            start,
            center.data_ptr(),
            inverse_scale.data_ptr(),
            workspace.data_ptr(),
            indices.data_ptr(),
            radii.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return indices, radii


def _coreset_fake(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    _checks.check_coreset(features, count, None if start == -1 else start)
    return _coreset_outputs(features, count)


define(
    "greedy_coreset(Tensor features, int count, int start, int seed, int num_threads)"
    " -> (Tensor, Tensor)",
    cpu=_coreset_cpu,
    cuda=_coreset_cuda,
    fake=_coreset_fake,
)


# --- aggregate_patches -------------------------------------------------------------------------


def _aggregate_output(
    feature_maps: list[torch.Tensor], patch_sizes: list[int], height: int, width: int
) -> torch.Tensor:
    _checks.check_aggregate(feature_maps, patch_sizes)
    _checks.check_out_size(height, width)
    rows = feature_maps[0].shape[0] * height * width
    shape = (rows, sum(m.shape[1] for m in feature_maps))
    return feature_maps[0].new_empty(shape, dtype=torch.float32)


def _check_aggregate_out(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
) -> None:
    _checks.check_aggregate(feature_maps, patch_sizes)
    _checks.check_out_size(height, width)
    _checks.check_aggregate_out(feature_maps, height, width, out)


_FEATURE_TYPES = {
    torch.float32: _C.FeatureType.float32,
    torch.float16: _C.FeatureType.float16,
    torch.bfloat16: _C.FeatureType.bfloat16,
}


def _readable(feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Maps in one of the two layouts that are read in place; others are copied into the faster."""
    return [
        m if m.is_contiguous() else m.contiguous(memory_format=torch.channels_last)
        for m in feature_maps
    ]


def _levels(feature_maps: list[torch.Tensor], patch_sizes: list[int]) -> list[_C.Level]:
    return [
        (
            m.data_ptr(),
            _FEATURE_TYPES[m.dtype],
            m.shape[1],
            m.shape[2],
            m.shape[3],
            not m.is_contiguous(),
            patch_size,
        )
        for m, patch_size in zip(feature_maps, patch_sizes, strict=True)
    ]


def _aggregate_out_cpu(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
    num_threads: int,
) -> None:
    _check_aggregate_out(feature_maps, patch_sizes, height, width, out)
    maps = _readable([m.float() for m in feature_maps])
    _C.aggregate_patches(
        _levels(maps, patch_sizes),
        feature_maps[0].shape[0],
        height,
        width,
        out.data_ptr(),
        threads(num_threads),
    )


def _aggregate_out_cuda(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
    num_threads: int,
) -> None:
    _check_aggregate_out(feature_maps, patch_sizes, height, width, out)
    with torch.cuda.device_of(out):
        maps = _readable(feature_maps)
        _C.aggregate_patches_cuda(
            _levels(maps, patch_sizes),
            feature_maps[0].shape[0],
            height,
            width,
            out.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )


def _aggregate_out_fake(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
    num_threads: int,
) -> None:
    _check_aggregate_out(feature_maps, patch_sizes, height, width, out)


def _aggregate_cpu(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    num_threads: int,
) -> torch.Tensor:
    out = _aggregate_output(feature_maps, patch_sizes, height, width)
    _C.prefer_huge_pages(out.data_ptr(), out.numel())
    _aggregate_out_cpu(feature_maps, patch_sizes, height, width, out, num_threads)
    return out


def _aggregate_cuda(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    num_threads: int,
) -> torch.Tensor:
    out = _aggregate_output(feature_maps, patch_sizes, height, width)
    _aggregate_out_cuda(feature_maps, patch_sizes, height, width, out, num_threads)
    return out


def _aggregate_fake(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    num_threads: int,
) -> torch.Tensor:
    return _aggregate_output(feature_maps, patch_sizes, height, width)


define(
    "aggregate_patches(Tensor[] feature_maps, int[] patch_sizes, SymInt height, SymInt width,"
    " int num_threads) -> Tensor",
    cpu=_aggregate_cpu,
    cuda=_aggregate_cuda,
    fake=_aggregate_fake,
)
define(
    "aggregate_patches_out(Tensor[] feature_maps, int[] patch_sizes, SymInt height, SymInt width,"
    " Tensor(a!) out, int num_threads) -> ()",
    cpu=_aggregate_out_cpu,
    cuda=_aggregate_out_cuda,
    fake=_aggregate_out_fake,
)


# --- pixel_metrics -----------------------------------------------------------------------------


_SCORE_TYPES = {
    torch.float32: _C.ScoreType.float32,
    torch.float64: _C.ScoreType.float64,
    torch.float16: _C.ScoreType.float16,
    torch.bfloat16: _C.ScoreType.bfloat16,
    torch.uint8: _C.ScoreType.uint8,
}


def _metrics_output(scores: torch.Tensor) -> torch.Tensor:
    """The five metrics and the error, which `check_metrics_error` reads."""
    return scores.new_zeros((6,), dtype=torch.float64)


def _metrics_cpu(
    scores: torch.Tensor,
    masks: torch.Tensor,
    type_indices: torch.Tensor,
    num_types: int,
    num_threads: int,
) -> torch.Tensor:
    _checks.check_metrics(scores, masks, type_indices, num_types)
    if len(type_indices) and not -1 <= type_indices.min() <= type_indices.max() < num_types:
        raise ValueError(f"`type_indices` are not all in -1 to {num_types - 1}")
    scores, masks, type_indices = (t.contiguous() for t in (scores, masks, type_indices))
    out = _metrics_output(scores)
    _C.pixel_metrics(
        scores.data_ptr(),
        _SCORE_TYPES[scores.dtype],
        masks.data_ptr(),
        scores.shape[0],
        scores.shape[1],
        scores.shape[2],
        type_indices.data_ptr(),
        num_types,
        out.data_ptr(),
        threads(num_threads),
    )
    return out


def _metrics_cuda(
    scores: torch.Tensor,
    masks: torch.Tensor,
    type_indices: torch.Tensor,
    num_types: int,
    num_threads: int,
) -> torch.Tensor:
    _checks.check_metrics(scores, masks, type_indices, num_types)
    _checks.check_cuda_pixels(scores)
    with torch.cuda.device_of(scores):
        scores, masks, type_indices = (t.contiguous() for t in (scores, masks, type_indices))
        score_type = _SCORE_TYPES[scores.dtype]
        out = _metrics_output(scores)
        size = _C.pixel_metrics_cuda_workspace(score_type, scores.numel(), num_types)
        workspace = scores.new_empty((size,), dtype=torch.uint8)
        _C.pixel_metrics_cuda(
            scores.data_ptr(),
            score_type,
            masks.data_ptr(),
            scores.shape[0],
            scores.shape[1],
            scores.shape[2],
            type_indices.data_ptr(),
            num_types,
            workspace.data_ptr(),
            out.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return out


def _metrics_fake(
    scores: torch.Tensor,
    masks: torch.Tensor,
    type_indices: torch.Tensor,
    num_types: int,
    num_threads: int,
) -> torch.Tensor:
    _checks.check_metrics(scores, masks, type_indices, num_types)
    return _metrics_output(scores)


# On the CPU what is wrong with the values of an input raises at once. On a GPU nothing waits for
# it: the metrics are NaN and the error is one of the six numbers.
define(
    "pixel_metrics(Tensor scores, Tensor masks, Tensor type_indices, int num_types,"
    " int num_threads) -> Tensor",
    cpu=_metrics_cpu,
    cuda=_metrics_cuda,
    fake=_metrics_fake,
)


def check_metrics_error(code: int, num_types: int) -> None:
    """Raises what the sixth number of `autopatch::pixel_metrics` stands for.

    Args:
        code: A `MetricsError` plus eight times the image that has it; 0 if there is none.
        num_types: The number of anomaly types.

    Raises:
        ValueError: `code` is not 0.
    """
    image, number = divmod(code, _C.metrics_errors)
    error = _C.MetricsError(number)
    if error == _C.MetricsError.type_out_of_range:
        raise ValueError(f"`type_indices` are not all in -1 to {num_types - 1}")
    if error == _C.MetricsError.anomalous_pixel_in_good_image:
        raise ValueError(f'`masks` have anomalous pixels in image {image}, whose type is "good"')
    if error == _C.MetricsError.no_anomalous_pixel:
        raise ValueError("`masks` have no anomalous pixel")
    if error == _C.MetricsError.nan_score:
        raise ValueError(f"`scores` contain NaN, first in image {image}")


if "AUTOPATCH_ISA" in os.environ:
    try:
        _C.set_active_isa(os.environ["AUTOPATCH_ISA"])
    except ValueError as error:
        raise InputError(f"AUTOPATCH_ISA: {error}") from None
