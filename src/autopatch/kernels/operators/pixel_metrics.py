"""The operator `autopatch::pixel_metrics` and its error codes."""

from __future__ import annotations

import torch

from autopatch import _C
from autopatch.kernels import _checks
from autopatch.kernels.operators.library import define, threads

_SCORE_TYPES = {
    torch.float32: _C.ScoreType.float32,
    torch.float64: _C.ScoreType.float64,
    torch.float16: _C.ScoreType.float16,
    torch.bfloat16: _C.ScoreType.bfloat16,
    torch.uint8: _C.ScoreType.uint8,
}


def _output(scores: torch.Tensor) -> torch.Tensor:
    """Space for the five metrics and an error code, see `check_metrics_error`."""
    return scores.new_zeros((6,), dtype=torch.float64)


def _cpu(
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
    out = _output(scores)
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


def _cuda(
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
        out = _output(scores)
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


def _fake(
    scores: torch.Tensor,
    masks: torch.Tensor,
    type_indices: torch.Tensor,
    num_types: int,
    num_threads: int,
) -> torch.Tensor:
    _checks.check_metrics(scores, masks, type_indices, num_types)
    return _output(scores)


# On the CPU an invalid value raises at once. On a GPU that would mean waiting for the device, so
# the metrics are NaN and the sixth number is the error code.
define(
    "pixel_metrics(Tensor scores, Tensor masks, Tensor type_indices, int num_types,"
    " int num_threads) -> Tensor",
    cpu=_cpu,
    cuda=_cuda,
    fake=_fake,
)


def check_metrics_error(code: int, num_types: int) -> None:
    """Raises the error of an error code, the sixth number of `autopatch::pixel_metrics`.

    Args:
        code: A `MetricsError` plus `_C.metrics_errors` times the index of the image; 0 if there is
            no error.
        num_types: Number of anomaly types.

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
