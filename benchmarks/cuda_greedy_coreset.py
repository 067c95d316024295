"""Times greedy_coreset on a GPU beside PatchCore's loop in torch."""

from __future__ import annotations

import torch

from autopatch.kernels import greedy_coreset
from cuda_timing import Report, correlated, median_milliseconds

SIZES = ((160_000, 128, 16_000), (160_000, 128, 1_600), (50_000, 384, 5_000))
PICKS = 300  # number of picks for timing peers and for comparison with the rule


def measure(report: Report) -> None:
    """Times every size."""
    for rows, dim, count in SIZES:
        features = correlated(rows, dim)
        work = f"{count} of {rows} x {dim}"
        indices, radii = greedy_coreset(features, count, start=0)
        milliseconds = median_milliseconds(
            [lambda f=features, c=count: greedy_coreset(f, c, start=0)], runs=3, warm_up=1
        )
        report(
            operator="greedy_coreset",
            work=work,
            method="autopatch",
            is_peer=False,
            milliseconds=milliseconds,
            achieved=f"{1e3 * milliseconds / count:.2f} us per pick",
            error=None,
        )
        for method, loop in [
            ("torch, expanded distances", _expanded),
            ("torch, differences", _differences),
        ]:
            time = median_milliseconds(
                [lambda f=features, pick=loop: pick(f, PICKS)], runs=3, warm_up=1
            )
            report(
                operator="greedy_coreset",
                work=work,
                method=f"{method}, from {PICKS} picks",
                is_peer=True,
                milliseconds=time / PICKS * count,
                achieved=f"{1e3 * time / PICKS:.1f} us per pick",
                error=None,
            )
        expected, expected_radii = _rule(features, PICKS)
        if not (
            torch.equal(indices[:PICKS], expected) and torch.equal(radii[:PICKS], expected_radii)
        ):
            raise AssertionError(f"{work}: the picks are not those of the rule")
        if len(indices.unique()) != count or not bool((radii[1:] <= radii[:-1]).all()):
            raise AssertionError(f"{work}: a row is picked twice, or the radii grow")


def _expanded(features: torch.Tensor, count: int) -> torch.Tensor:
    """PatchCore's loop, with norms computed once and without reads by the host."""
    norms = features.square().sum(dim=1)
    nearest = torch.full_like(norms, torch.inf)
    pick = torch.zeros(1, dtype=torch.int64, device=features.device)
    picks = []
    for _ in range(count):
        picks.append(pick)
        center = features.index_select(0, pick)[0]
        distances = torch.addmv(norms, features, center, alpha=-2) + norms[pick]
        nearest = torch.minimum(nearest, distances)
        pick = nearest.argmax().reshape(1)
    return torch.cat(picks)


def _differences(features: torch.Tensor, count: int) -> torch.Tensor:
    nearest = features.new_full((len(features),), torch.inf)
    pick = torch.zeros(1, dtype=torch.int64, device=features.device)
    picks = []
    for _ in range(count):
        picks.append(pick)
        distances = torch.linalg.vector_norm(features - features.index_select(0, pick), dim=1)
        nearest = torch.minimum(nearest, distances)
        pick = nearest.argmax().reshape(1)
    return torch.cat(picks)


def _rule(features: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Picks and radii by the documented rule, with its order of arithmetic."""
    columns = features.T.contiguous()
    nearest = features.new_full((len(features),), torch.inf)
    pick, picks, radii = 0, [], []
    for _ in range(count):
        picks.append(pick)
        sums = [torch.zeros_like(nearest) for _ in range(16)]
        center = features[pick]
        for d in range(features.shape[1]):
            difference = columns[d] - center[d]
            sums[d % 16] += difference * difference
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [sums[j] + sums[j + half] for j in range(half)]
        nearest = torch.minimum(nearest, sums[0])
        nearest[pick] = -1
        farthest = nearest.max()
        pick = int((nearest == farthest).nonzero()[0])
        radii.append(farthest.clamp(min=0).double().sqrt().float())
    return torch.tensor(picks, device=features.device), torch.stack(radii)
