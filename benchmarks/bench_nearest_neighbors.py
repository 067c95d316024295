from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from autopatch import _C
from autopatch.kernels import NearestNeighborIndex, nearest_neighbors
from features import ADVERSARIAL, NUM_QUERIES, coreset_bank, origin, query_rows, train_rows

CHUNK = 1024  # queries that the torch peers process at a time
CHECK_EVERY = 64  # every n-th query is compared with float64
# Maximum work of one call in 1e9 operations; slower members get a part of the queries.
FAISS_WORK = 140.0
SLOW_PEER_WORK = 10.0
LESSER_ISA_WORK = 260.0
GENERIC_WORK = 3.0


@dataclass(frozen=True)
class Problem:
    """Queries and a bank.

    Attributes:
        data: Description of the rows.
        queries: `[Q, D]`.
        bank: `[N, D]`.
        k: Number of neighbors per query.
        target: Target ratio to the best peer; None if there is no target.
        exact: Squared distances of every `CHECK_EVERY`-th query, float64, `[Q / CHECK_EVERY, k]`.
        tolerance: Absolute tolerance of autopatch: 1e-6 of the squared radius of the bank about its
            mean.
        peer_tolerance: Absolute tolerance of the expanded form |q|^2 + |b|^2 - 2 q.b, which loses
            digits to cancellation: 1e-5 of the largest squared norm.
    """

    data: str
    queries: torch.Tensor
    bank: torch.Tensor
    k: int
    target: float | None
    exact: torch.Tensor
    tolerance: float
    peer_tolerance: float

    @classmethod
    def make(
        cls, data: str, queries: torch.Tensor, bank: torch.Tensor, k: int, target: float | None
    ) -> Problem:
        norms = max(float(rows.square().sum(dim=1).max()) for rows in (queries, bank))
        radius = float((bank.double() - bank.double().mean(dim=0)).square().sum(dim=1).max())
        return cls(
            data=data,
            queries=queries,
            bank=bank,
            k=k,
            target=target,
            exact=exact_distances(queries[::CHECK_EVERY], bank, k),
            tolerance=1e-6 * radius,
            peer_tolerance=1e-5 * norms,
        )

    @property
    def work(self) -> float:
        """Work of all queries, in 1e9 operations."""
        return 2e-9 * self.queries.numel() * len(self.bank)

    @property
    def task(self) -> dict[str, Any]:
        (q, d), n = self.queries.shape, len(self.bank)
        return {
            "group": f"nearest_neighbors: k = {self.k}, {q:,} queries, {n:,} rows, {d} features "
            f"({self.data})",
            "work": self.work,
            "unit": "Gop/s",
            "floor": {
                "arithmetic": self.work,
                "read": 4e-9 * (self.queries.numel() + self.bank.numel()),
            },
            "data": self.data,
            "target": self.target,
        }

    def every(self, limit: float) -> int:
        """The step with which to select queries so that their work is at most `limit`: the smallest
        such power of two, at most `CHECK_EVERY`."""
        step = 1
        while step < CHECK_EVERY and self.work / step > limit:
            step *= 2
        return step

    def check(
        self, distances: torch.Tensor, indices: torch.Tensor, *, step: int, ours: bool
    ) -> None:
        """Compares the results for every `step`-th query with float64: the distances, and the true
        distances of the returned rows."""
        stride = CHECK_EVERY // step
        found = distances[::stride].double()
        tolerance = (
            {"rtol": 1e-5, "atol": self.tolerance}
            if ours
            else {"rtol": 1e-3, "atol": self.peer_tolerance}
        )
        torch.testing.assert_close(found, self.exact, **tolerance)
        named = self.bank[indices[::stride]].double()
        of_named = (named - self.queries[::CHECK_EVERY, None].double()).square().sum(dim=2)
        torch.testing.assert_close(of_named, self.exact, **tolerance)


def exact_distances(queries: torch.Tensor, bank: torch.Tensor, k: int) -> torch.Tensor:
    """Squared distances to the `k` nearest rows in float64 and difference form, `[Q, k]`.

    The expanded form about the bank's mean selects a few more candidates than needed. In float64
    its error is about 1e-16 of the squared radius.
    """
    center = bank.double().mean(dim=0)
    rows, points = bank.double() - center, queries.double() - center
    scores = torch.addmm(rows.square().sum(dim=1), points, rows.t(), alpha=-2)
    candidates = scores.topk(min(k + 16, len(bank)), largest=False).indices
    differences = bank[candidates].double() - queries[:, None].double()
    return differences.square().sum(dim=2).sort(dim=1).values[:, :k]


def of_network(dim: int, k: int, target: float | None) -> Problem:
    return Problem.make(
        f"{origin(dim)}, greedy coreset", query_rows(dim), coreset_bank(dim), k, target
    )


def of_network_whole(target: float) -> Problem:
    bank = train_rows(128, 160_000)
    return Problem.make(f"{origin(128)}, random patches", query_rows(128), bank, 1, target)


def adversarial(name: str) -> Problem:
    bank, queries = ADVERSARIAL[name](20_000, NUM_QUERIES, 128)
    return Problem.make(name, queries, bank, k=1, target=1.0)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "d64": lambda: of_network(64, k=1, target=None),
    "d128": lambda: of_network(128, k=1, target=4.5),
    "d128_n160k": lambda: of_network_whole(target=4.5),
    "d384": lambda: of_network(384, k=1, target=6.0),
    "d1024": lambda: of_network(1024, k=1, target=7.0),
    "d128_k9": lambda: of_network(128, k=9, target=3.0),
    "d384_k9": lambda: of_network(384, k=9, target=3.0),
    **{name: lambda name=name: adversarial(name) for name in ADVERSARIAL},
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]()


def bench_faiss(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(problem.bank.shape[1])
    index.add(problem.bank.numpy())
    step = problem.every(FAISS_WORK)
    queries = problem.queries[::step].contiguous().numpy()
    distances, indices = measure(
        lambda: index.search(queries, problem.k), part=1 / step, **problem.task
    )
    problem.check(torch.from_numpy(distances), torch.from_numpy(indices), step=step, ours=False)


def bench_torch_matmul(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    norms = problem.bank.square().sum(dim=1)
    step = problem.every(SLOW_PEER_WORK)
    chunks = problem.queries[::step].contiguous().split(CHUNK)

    def search() -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for chunk in chunks:
            scores = torch.addmm(norms, chunk, problem.bank.t(), alpha=-2)
            values, indices = nearest_of(scores, problem.k)
            found.append((values + chunk.square().sum(dim=1, keepdim=True), indices))
        return join(found)

    problem.check(*measure(search, part=1 / step, **problem.task), step=step, ours=False)


def bench_torch_cdist(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    step = problem.every(SLOW_PEER_WORK)
    chunks = problem.queries[::step].contiguous().split(CHUNK)

    def search() -> tuple[torch.Tensor, torch.Tensor]:
        found = [nearest_of(torch.cdist(chunk, problem.bank), problem.k) for chunk in chunks]
        distances, indices = join(found)
        return distances.square(), indices

    problem.check(*measure(search, part=1 / step, **problem.task), step=step, ours=False)


def bench_scikit_learn(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    search = neighbors.NearestNeighbors(n_neighbors=problem.k, algorithm="brute")
    search.fit(problem.bank.numpy())
    step = problem.every(SLOW_PEER_WORK)
    queries = problem.queries[::step].contiguous().numpy()
    distances, indices = measure(lambda: search.kneighbors(queries), part=1 / step, **problem.task)
    problem.check(
        torch.from_numpy(distances).square(), torch.from_numpy(indices), step=step, ours=False
    )


def bench_autopatch(
    problem: Problem, measure: Callable[..., Any], benchmark: Any, isa: str, threads: int
) -> None:
    best = _C.isa_levels()[-1]
    limit = {best: float("inf"), "generic": GENERIC_WORK}.get(isa, LESSER_ISA_WORK)
    step = problem.every(limit)
    if isa == "generic" and problem.work / step > 2 * GENERIC_WORK:
        pytest.skip("slow")
    queries = problem.queries[::step].contiguous()
    start = time.perf_counter()
    index = NearestNeighborIndex(problem.bank)
    benchmark.extra_info["index_ms"] = 1e3 * (time.perf_counter() - start)
    distances, indices = measure(
        lambda: nearest_neighbors(queries, index, problem.k, num_threads=threads),
        part=1 / step,
        **problem.task,
    )
    problem.check(distances, indices, step=step, ours=True)


def nearest_of(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` smallest scores of each row, and their indices."""
    if k == 1:
        return scores.min(dim=1, keepdim=True)
    return scores.topk(k, dim=1, largest=False)


def join(found: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = zip(*found, strict=True)
    return torch.cat(values), torch.cat(indices)
