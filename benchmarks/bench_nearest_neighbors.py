from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from autopatch.kernels import NearestNeighborIndex, nearest_neighbors

pytestmark = pytest.mark.benchmark(min_rounds=3, max_time=1.0)

CHUNK = 1024  # queries that the torch peers take at a time


@dataclass(frozen=True)
class Problem:
    queries: torch.Tensor
    bank: torch.Tensor
    distances: torch.Tensor  # float64

    @property
    def task(self) -> dict[str, Any]:
        (q, d), n = self.queries.shape, len(self.bank)
        return {
            "group": f"nearest_neighbors: {q} queries, {n} rows, {d} features",
            "work": 2e-9 * q * n * d,
            "unit": "Gop/s",
        }

    def check(self, distances: torch.Tensor, *, tolerance: float) -> None:
        torch.testing.assert_close(
            distances.double().flatten(), self.distances, rtol=tolerance, atol=0
        )


@pytest.fixture(scope="module", params=[(3136, 2000, 160), (3136, 10_000, 64)], ids=str)
def problem(request: pytest.FixtureRequest) -> Problem:
    num_queries, num_rows, dim = request.param
    generator = torch.Generator().manual_seed(0)
    # Features behind a ReLU: not centred, correlated.
    mix = torch.randn(dim // 4, dim, generator=generator)
    rows = torch.relu(torch.randn(num_queries + num_rows, dim // 4, generator=generator) @ mix)
    queries, bank = rows[:num_queries], rows[num_queries:]
    distances = torch.cat(
        [
            torch.cdist(
                chunk.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist"
            ).amin(dim=1)
            for chunk in queries.split(CHUNK)
        ]
    ).square()
    return Problem(queries, bank, distances)


def bench_torch_matmul(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    bank_norms = problem.bank.square().sum(dim=1)

    def search() -> torch.Tensor:
        return torch.cat(
            [
                torch.addmm(bank_norms, chunk, problem.bank.t(), alpha=-2).amin(dim=1)
                + chunk.square().sum(dim=1)
                for chunk in problem.queries.split(CHUNK)
            ]
        )

    problem.check(measure(search, **problem.task), tolerance=1e-3)


def bench_torch_cdist(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    def search() -> torch.Tensor:
        return torch.cat(
            [torch.cdist(c, problem.bank).amin(dim=1) for c in problem.queries.split(CHUNK)]
        ).square()

    problem.check(measure(search, **problem.task), tolerance=1e-3)


def bench_faiss(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(problem.bank.shape[1])
    index.add(problem.bank.numpy())
    queries = problem.queries.numpy()
    distances, _ = measure(lambda: index.search(queries, 1), **problem.task)
    problem.check(torch.from_numpy(distances), tolerance=1e-3)


def bench_autopatch(problem: Problem, measure: Callable[..., Any], isa: str, threads: int) -> None:
    index = NearestNeighborIndex(problem.bank)
    distances, _ = measure(
        lambda: nearest_neighbors(problem.queries, index, num_threads=threads), **problem.task
    )
    problem.check(distances, tolerance=1e-5)
