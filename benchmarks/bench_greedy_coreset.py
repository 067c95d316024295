from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from autopatch.kernels import greedy_coreset, reference

pytestmark = pytest.mark.benchmark(min_rounds=3, max_time=1.0)


@dataclass(frozen=True)
class Problem:
    features: torch.Tensor
    indices: torch.Tensor
    radii: torch.Tensor

    @property
    def task(self) -> dict[str, Any]:
        (n, d), count = self.features.shape, len(self.indices)
        return {
            "group": f"greedy_coreset: {count} of {n} rows, {d} features",
            # Of the plain algorithm, which computes the distance of every row at every pick.
            "work": 2e-9 * n * d * count,
            "unit": "Gop/s",
        }


@pytest.fixture(scope="module", params=[(10_000, 128, 500), (50_000, 64, 500)], ids=str)
def problem(request: pytest.FixtureRequest) -> Problem:
    num_rows, dim, count = request.param
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(dim // 4, dim, generator=generator)
    features = torch.relu(torch.randn(num_rows, dim // 4, generator=generator) @ mix)
    return Problem(features, *reference.greedy_coreset(features, count, start=0))


def bench_torch_addmv(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    features = problem.features

    def select() -> torch.Tensor:
        norms = features.square().sum(dim=1)
        nearest = torch.full_like(norms, torch.inf)
        indices = torch.zeros(len(problem.indices), dtype=torch.int64)
        for i in range(1, len(indices) + 1):
            center = indices[i - 1]
            distances = torch.addmv(norms, features, features[center], alpha=-2) + norms[center]
            torch.minimum(nearest, distances, out=nearest)
            if i < len(indices):
                indices[i] = nearest.argmax()
        return nearest.max().clamp(min=0).sqrt()

    # The expanded form rounds differently and so may pick other rows: compare the radius reached.
    radius = measure(select, **problem.task)
    torch.testing.assert_close(radius, problem.radii[-1], rtol=0.02, atol=0)


def bench_autopatch(problem: Problem, measure: Callable[..., Any], isa: str, threads: int) -> None:
    count = len(problem.indices)
    indices, radii = measure(
        lambda: greedy_coreset(problem.features, count, start=0, num_threads=threads),
        **problem.task,
    )
    assert torch.equal(indices, problem.indices)
    assert torch.equal(radii, problem.radii)
