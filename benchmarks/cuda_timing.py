"""Timing and reporting of the CUDA benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch


class Report(Protocol):
    """Adds a row to the results.

    Args:
        operator: The operator or detector that is timed.
        work: Size and kind of the data.
        method: Name of the implementation.
        is_peer: Whether the implementation is a peer of autopatch.
        milliseconds: Median time of a call; None if it could not run.
        achieved: Rate and share of the floor, in words.
        error: Relative error from the reference; None if another row gives it.
    """

    def __call__(
        self,
        *,
        operator: str,
        work: str,
        method: str,
        is_peer: bool,
        milliseconds: float | None,
        achieved: str,
        error: float | None,
    ) -> None: ...


def median_milliseconds(
    calls: Sequence[Callable[[], object]], *, runs: int = 11, warm_up: int = 3
) -> float:
    """Median time of a call by CUDA events. The calls cycle through enough different data that no
    call finds its own data in the L2 cache."""
    times = []
    for run in range(warm_up + runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        calls[run % len(calls)]()
        end.record()
        torch.cuda.synchronize()
        if run >= warm_up:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Allows or forbids TF32 in float32 matrix products."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def correlated(rows: int, dim: int, *, seed: int = 0) -> torch.Tensor:
    """Features on the GPU like those of a network: clustered latent factors of decreasing weight,
    followed by a ReLU. The clusters are the same for every seed."""
    generator = torch.Generator("cuda").manual_seed(1)
    factors = dim // 4
    weights = torch.arange(1, factors + 1, device="cuda").pow(-0.5)[:, None]
    mix = weights * torch.randn(factors, dim, device="cuda", generator=generator)
    centers = torch.randn(100, factors, device="cuda", generator=generator)
    generator.manual_seed(2 + seed)
    clusters = torch.randint(len(centers), (rows,), device="cuda", generator=generator)
    noise = torch.randn(rows, factors, device="cuda", generator=generator)
    return torch.relu((centers[clusters] + 0.5 * noise) @ mix)
