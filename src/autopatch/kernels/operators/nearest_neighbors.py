"""The operator `autopatch::nearest_neighbors`."""

from __future__ import annotations

import torch

from autopatch import _C
from autopatch.kernels import _checks
from autopatch.kernels._codes import make_cuda_screen, make_screen, worth_a_screen
from autopatch.kernels.operators.library import check_finite, define, threads


def _outputs(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


def _cpu(
    queries: torch.Tensor,
    bank: torch.Tensor,
    screen: torch.Tensor | None,
    k: int,
    bank_is_finite: bool,
    num_threads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    _checks.check_nearest(queries, bank, k)
    if screen is not None:
        _checks.check_cpu_screen(screen, bank)
    queries, bank = queries.contiguous(), bank.contiguous()
    if not bank_is_finite:
        check_finite("bank", bank, num_threads)
    if screen is None and worth_a_screen(queries.shape[0], bank):
        screen = make_screen(bank, threads(num_threads))
    distances, indices = _outputs(queries, k)
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
        0,
        threads(num_threads),
    )
    return distances, indices


def _cuda(
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
        distances, indices = _outputs(queries, k)
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
            return distances, indices  # cannot raise; missing indices stay -1
    missing = (indices[:, -1] < 0).nonzero()
    if len(missing):
        raise ValueError(
            f"row {int(missing[0])} of `queries` has fewer than `k` finite squared distances to "
            "`bank`: it holds NaN, infinity or values beyond the range of float32"
        )
    return distances, indices


def _fake(
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
    return _outputs(queries, k)


define(
    "nearest_neighbors(Tensor queries, Tensor bank, Tensor? screen, int k, bool bank_is_finite,"
    " int num_threads) -> (Tensor, Tensor)",
    cpu=_cpu,
    cuda=_cuda,
    fake=_fake,
)
