from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from autopatch.kernels import greedy_coreset, reference
from coreset_peers import AddmvLoop, AnomalibLoop
from features import kept, origin, train_rows

PICKS = 300  # number of picks for timing peers and for comparison with the reference
SLOW_PEER_PICKS = 50
SAMPLE = 2000  # number of rows on which a whole coreset is checked
GENERIC_WORK = 30.0  # 1e9 operations


@dataclass
class Problem:
    """Rows to select a coreset from.

    Attributes:
        data: Description of the rows.
        features: `[N, D]`.
        count: Number of rows to pick.
        target: Ratio to the best peer.
        indices: First picks of the reference, `[PICKS]`.
        radii: Covering radii of these picks.
        whole: First picks of autopatch. Every ISA level and thread count must pick the same.
    """

    data: str
    features: torch.Tensor
    count: int
    target: float | None
    indices: torch.Tensor
    radii: torch.Tensor
    whole: tuple[torch.Tensor, torch.Tensor] | None = field(default=None)

    @property
    def work(self) -> float:
        """Work of the plain algorithm, which computes the distance of every row at every pick, in
        1e9 operations."""
        return 2e-9 * self.features.numel() * self.count

    @property
    def task(self) -> dict[str, Any]:
        n, d = self.features.shape
        return {
            "group": f"greedy_coreset: {self.count:,} of {n:,} rows, {d} features",
            "work": self.work,
            "unit": "Gop/s",
            "floor": {"arithmetic": self.work, "read": 4e-9 * self.features.numel()},
            "data": self.data,
            "target": self.target,
        }

    def check_radius(self, picks: int, radius: torch.Tensor) -> None:
        """Compares the radius reached by a peer, which may pick other rows as it rounds
        differently."""
        torch.testing.assert_close(radius, self.radii[picks - 1], rtol=0.02, atol=0)

    def check(self, indices: torch.Tensor, radii: torch.Tensor) -> None:
        if self.whole is None:
            self.check_whole(indices, radii)
            self.whole = indices, radii
        assert torch.equal(indices, self.whole[0])
        assert torch.equal(radii, self.whole[1])

    def check_whole(self, indices: torch.Tensor, radii: torch.Tensor) -> None:
        """Checks that the first picks are the reference's. For samples of later picks and of rows,
        checks that each pick is at the radius from the earlier picks, and no row is farther."""
        assert torch.equal(indices[:PICKS], self.indices)
        assert torch.equal(radii[:PICKS], self.radii)
        assert len(indices.unique()) == self.count
        assert (radii.diff() <= 0).all()
        generator = torch.Generator().manual_seed(0)
        later = torch.randint(PICKS, self.count - 1, (100,), generator=generator)
        some = torch.randint(len(self.features), (SAMPLE,), generator=generator)
        picked = self.features[indices].double()
        of_some = torch.cdist(self.features[some].double(), picked)
        for i in later.tolist():
            radius = float(radii[i])
            own = (picked[: i + 1] - picked[i + 1]).square().sum(dim=1).min().sqrt()
            assert float(own) == pytest.approx(radius, rel=1e-5)
            assert float(of_some[:, : i + 1].amin(dim=1).max()) <= radius * (1 + 1e-5)


def of_network(num_rows: int, dim: int, share: float, target: float | None) -> Problem:
    features = train_rows(dim, num_rows)

    def first_picks() -> torch.Tensor:
        indices, radii = reference.greedy_coreset(features, PICKS, start=0)
        return torch.stack([indices.double(), radii.double()])

    indices, radii = kept(f"picks_{dim}_{num_rows}", dim, first_picks)
    count = round(share * num_rows)
    return Problem(origin(dim), features, count, target, indices.long(), radii.float())


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "n10k_d128": lambda: of_network(10_000, 128, 0.1, target=None),
    "n160k_d128_1pct": lambda: of_network(160_000, 128, 0.01, target=70.0),
    "n160k_d128_10pct": lambda: of_network(160_000, 128, 0.1, target=100.0),
    "n50k_d384": lambda: of_network(50_000, 384, 0.1, target=60.0),
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]()


def bench_torch_addmv(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    loop = AddmvLoop(problem.features)
    measure(loop, part=1 / problem.count, rounds=PICKS, **problem.task)
    problem.check_radius(loop.count, loop.radius())


def bench_patchcore_loop(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    """The loop of PatchCore's own code: it recomputes norms at every pick and stacks distances."""
    features = problem.features
    nearest = torch.full((len(features), 1), torch.inf)
    picks = [0]

    def pick() -> None:
        nonlocal nearest
        center = features[picks[-1] :][:1]
        norms = torch.bmm(features[:, None], features[:, :, None])[:, 0] + center.square().sum()
        distances = (norms - 2 * features @ center.t()).clamp(min=0).sqrt()
        nearest = torch.cat([nearest, distances], dim=1).amin(dim=1, keepdim=True)
        picks.append(int(nearest.argmax()))

    measure(pick, part=1 / problem.count, rounds=SLOW_PEER_PICKS, **problem.task)
    problem.check_radius(len(picks) - 1, nearest.max())


def bench_anomalib(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    """anomalib's loop on the original features. By default it projects them at random first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("anomalib.models.components.sampling")
        loop = AnomalibLoop(problem.features, projects=False)
    measure(loop, part=1 / problem.count, rounds=SLOW_PEER_PICKS, **problem.task)
    problem.check_radius(loop.count, loop.radius())


def bench_fpsample(problem: Problem, measure: Callable[..., Any]) -> None:
    """fpsample's only exact function for this many dimensions; single-threaded."""
    fpsample = pytest.importorskip("fpsample")
    features = problem.features.numpy()
    indices = measure(
        lambda: fpsample.fps_sampling(features, PICKS, start_idx=0),
        part=PICKS / problem.count,
        rounds=1,
        **problem.task,
    )
    picked = problem.features[torch.from_numpy(indices.astype("int64"))]
    nearest = torch.cdist(problem.features, picked).amin(dim=1)
    problem.check_radius(PICKS, nearest.max())


def bench_autopatch(problem: Problem, measure: Callable[..., Any], isa: str, threads: int) -> None:
    if isa == "generic" and problem.work > GENERIC_WORK:
        pytest.skip("slow")
    indices, radii = measure(
        lambda: greedy_coreset(problem.features, problem.count, start=0, num_threads=threads),
        **problem.task,
    )
    problem.check(indices, radii)
