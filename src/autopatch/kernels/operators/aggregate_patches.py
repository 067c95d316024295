"""The operators `autopatch::aggregate_patches` and `autopatch::aggregate_patches_out`."""

from __future__ import annotations

import torch

from autopatch import _C
from autopatch.kernels import _checks
from autopatch.kernels.operators.library import define, threads


def _output(
    feature_maps: list[torch.Tensor], patch_sizes: list[int], height: int, width: int
) -> torch.Tensor:
    _checks.check_aggregate(feature_maps, patch_sizes)
    _checks.check_out_size(height, width)
    rows = feature_maps[0].shape[0] * height * width
    shape = (rows, sum(m.shape[1] for m in feature_maps))
    return feature_maps[0].new_empty(shape, dtype=torch.float32)


def _check_out(
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
    """The maps, contiguous or channels-last; maps in other layouts are copied to channels-last."""
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


def _out_cpu(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
    num_threads: int,
) -> None:
    _check_out(feature_maps, patch_sizes, height, width, out)
    maps = _readable([m.float() for m in feature_maps])
    _C.aggregate_patches(
        _levels(maps, patch_sizes),
        feature_maps[0].shape[0],
        height,
        width,
        out.data_ptr(),
        threads(num_threads),
    )


def _out_cuda(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
    num_threads: int,
) -> None:
    _check_out(feature_maps, patch_sizes, height, width, out)
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


def _out_fake(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    out: torch.Tensor,
    num_threads: int,
) -> None:
    _check_out(feature_maps, patch_sizes, height, width, out)


def _cpu(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    num_threads: int,
) -> torch.Tensor:
    out = _output(feature_maps, patch_sizes, height, width)
    _C.prefer_huge_pages(out.data_ptr(), out.numel())
    _out_cpu(feature_maps, patch_sizes, height, width, out, num_threads)
    return out


def _cuda(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    num_threads: int,
) -> torch.Tensor:
    out = _output(feature_maps, patch_sizes, height, width)
    _out_cuda(feature_maps, patch_sizes, height, width, out, num_threads)
    return out


def _fake(
    feature_maps: list[torch.Tensor],
    patch_sizes: list[int],
    height: int,
    width: int,
    num_threads: int,
) -> torch.Tensor:
    return _output(feature_maps, patch_sizes, height, width)


define(
    "aggregate_patches(Tensor[] feature_maps, int[] patch_sizes, SymInt height, SymInt width,"
    " int num_threads) -> Tensor",
    cpu=_cpu,
    cuda=_cuda,
    fake=_fake,
)
define(
    "aggregate_patches_out(Tensor[] feature_maps, int[] patch_sizes, SymInt height, SymInt width,"
    " Tensor(a!) out, int num_threads) -> ()",
    cpu=_out_cpu,
    cuda=_out_cuda,
    fake=_out_fake,
)
