"""The operator `autopatch::greedy_coreset`."""

from __future__ import annotations

import torch

from autopatch import _C
from autopatch.kernels import _checks
from autopatch.kernels._codes import coreset_coding, cuda_codes
from autopatch.kernels.operators.library import check_finite, define, threads


def _outputs(features: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return features.new_empty((count,), dtype=torch.int64), features.new_empty((count,))


def _inputs(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, int]:
    """Contiguous features and the first pick."""
    _checks.check_coreset(features, count, None if start == -1 else start)
    features = features.contiguous()
    check_finite("features", features, num_threads)
    if start == -1:
        generator = torch.Generator("cpu").manual_seed(seed)
        start = int(torch.randint(features.shape[0], (), generator=generator, device="cpu"))
    return features, start


def _cpu(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    features, start = _inputs(features, count, start, seed, num_threads)
    indices, radii = _outputs(features, count)
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


def _cuda(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.cuda.device_of(features):
        features, start = _inputs(features, count, start, seed, num_threads)
        _checks.check_cuda_columns(features)
        rows, dim = features.shape
        indices, radii = _outputs(features, count)
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


def _fake(
    features: torch.Tensor, count: int, start: int, seed: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    _checks.check_coreset(features, count, None if start == -1 else start)
    return _outputs(features, count)


define(
    "greedy_coreset(Tensor features, int count, int start, int seed, int num_threads)"
    " -> (Tensor, Tensor)",
    cpu=_cpu,
    cuda=_cuda,
    fake=_fake,
)
