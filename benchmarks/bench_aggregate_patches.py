from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from autopatch.kernels import aggregate_patches, reference

pytestmark = pytest.mark.benchmark(min_rounds=3, max_time=1.0)


@dataclass(frozen=True)
class Problem:
    maps: list[torch.Tensor]
    patch_sizes: list[int]
    rows: torch.Tensor

    @property
    def task(self) -> dict[str, Any]:
        images, _, height, width = self.maps[0].shape
        values = sum(m.numel() for m in self.maps) + self.rows.numel()
        return {
            "group": f"aggregate_patches: {images} images, {len(self.maps)} maps, "
            f"{height} x {width}, {self.rows.shape[1]} channels",
            "work": 4e-9 * values,  # read once, written once
            "unit": "GB/s",
        }

    def check(self, rows: torch.Tensor) -> None:
        torch.testing.assert_close(rows, self.rows, rtol=1e-5, atol=1e-5)


@pytest.fixture(
    scope="module",
    params=[
        [(24, 56), (32, 28)],
        [(24, 56), (32, 28), (96, 14), (160, 7)],
    ],
    ids=["2 maps", "4 maps"],
)
def problem(request: pytest.FixtureRequest) -> Problem:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(8, c, size, size, generator=generator) for c, size in request.param]
    patch_sizes = [3] * len(maps)
    rows = reference.aggregate_patches([m.double() for m in maps], patch_sizes).float()
    return Problem(maps, patch_sizes, rows)


def bench_torch(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    problem.check(
        measure(
            lambda: reference.aggregate_patches(problem.maps, problem.patch_sizes), **problem.task
        )
    )


def bench_torch_channels_last(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    def aggregate() -> torch.Tensor:
        maps = [m.contiguous(memory_format=torch.channels_last) for m in problem.maps]
        return reference.aggregate_patches(maps, problem.patch_sizes)

    problem.check(measure(aggregate, **problem.task))


def bench_autopatch(problem: Problem, measure: Callable[..., Any], isa: str, threads: int) -> None:
    problem.check(
        measure(
            lambda: aggregate_patches(problem.maps, problem.patch_sizes, num_threads=threads),
            **problem.task,
        )
    )


def bench_autopatch_out_channels_last(
    problem: Problem, measure: Callable[..., Any], isa: str, threads: int
) -> None:
    maps = [m.contiguous(memory_format=torch.channels_last) for m in problem.maps]
    out = torch.zeros_like(problem.rows)
    measure(
        lambda: aggregate_patches(maps, problem.patch_sizes, out=out, num_threads=threads),
        **problem.task,
    )
    problem.check(out)
