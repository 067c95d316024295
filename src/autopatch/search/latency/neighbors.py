"""The latency of the search for nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import nnls

from autopatch.detector import FeatureTransform
from autopatch.kernels import (
    NearestNeighborIndex,
    SearchWork,
    aggregate_patches,
    greedy_coreset,
    least_search_work,
    nearest_neighbors,
    search_work,
)
from autopatch.kernels.work import GROUP_ROWS
from autopatch.search.latency.component import Case, Key, some_queries, whole
from autopatch.search.latency.curves import entry
from autopatch.search.latency.steps import step_values
from autopatch.search.latency.timing import Work
from autopatch.supernet import Backbone, Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace

_QUERIES = (16, 128, 1024)  # searched for at once
_ROWS = (100, 1_000, 5_000)  # of coresets
_MOST_VALUES = 1 << 24  # of a bank of all patches
_ITERATIONS = 10_000
_SEED = 0


class NearestNeighbors:
    """The search of the patches in the memory bank, and in the bank of known defects.

    How long a search takes depends on how many rows its codes rule out, and so on the features. So
    what it does is counted for each candidate (`autopatch.kernels.search_work`), and the table has
    the seconds of each kind of work: of a call, of a query, of a group of rows that is compared by
    its codes, of a distance that is computed, and so on. These rates are fitted to searches for
    real patches in banks of many sizes, with the least relative error and none below zero
    (non-negative least squares).

    A GPU compares all rows, so there the kinds are a call, a query, a row and a feature of a row.
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each set of levels, number of rows and number of queries; for the sets with the
        fewest and the most channels also with each step on features, and in a bank of all patches.
        """
        works: list[tuple[Key, Work]] = []
        steps = step_values(bench.space)
        for number, (name, backbone) in enumerate(bench.level_sets.items()):
            bench.told("banks", number, len(bench.level_sets))
            is_extreme = name in bench.extreme_sets
            works += self._searches(bench, backbone, None, with_all=is_extreme)
            if is_extreme:
                channels = tuple(level.channels for level in bench.supernet.levels(backbone))
                for step in steps:
                    transform = step.features(sum(channels), channels)
                    if transform is not None:
                        changes = transform.out_features != sum(channels)
                        works += self._searches(bench, backbone, transform, with_all=changes)
        return works

    @staticmethod
    def _searches(
        bench: Bench, backbone: Backbone, transform: FeatureTransform | None, *, with_all: bool
    ) -> list[tuple[Key, Work]]:
        """Searches for patches of other images in banks of patches of good images, at the middle
        image size.

        Args:
            bench: What is measured with.
            backbone: The levels.
            transform: A step on the features.
            with_all: Whether to search in a bank of all patches too.
        """
        size = bench.sizes[len(bench.sizes) // 2]
        sides = (bench.usual_patch_size,) * len(backbone.levels)
        maps = bench.good_maps(backbone, size)
        patches = bench.sampled(maps, sides)
        queries: torch.Tensor = aggregate_patches(bench.query_maps(backbone, size), sides)
        features = patches.shape[1]
        if transform is not None:
            transform.to(bench.device).fit([patches])
            patches, queries = transform(patches), transform(queries)
        picks, _ = greedy_coreset(patches, min(_ROWS[-1], len(patches)), seed=_SEED)
        banks = [patches[picks[:rows]] for rows in sorted({min(r, len(picks)) for r in _ROWS})]
        if with_all:
            rows = bench.sampled(maps, sides, most=_MOST_VALUES // features)
            banks.append(rows if transform is None else transform(rows))
        works: list[tuple[Key, Work]] = []
        for bank in banks:
            index = NearestNeighborIndex(bank)
            for asked in sorted({min(n, len(queries)) for n in _QUERIES}):
                chosen = queries[some_queries(len(queries), asked)]
                if bench.needs_counts:
                    key = amounts(len(chosen), search_work(chosen, index))
                else:
                    key = amounts(len(chosen), least_search_work(*bank.shape), on_gpu=True)
                works.append((key, whole(partial(nearest_neighbors, chosen, index))))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by kind of work."""
        kinds = [kind for kind, _ in timed[0][0]]
        done = np.array([[amount for _, amount in key] for key, _ in timed])
        seconds = np.array([each for _, (each,) in timed]).clip(min=1e-9)
        largest = done.max(axis=0).clip(min=1)
        rates, _ = nnls(
            done / largest / seconds[:, None], np.ones(len(seconds)), maxiter=_ITERATIONS
        )
        return dict(zip(kinds, (rates / largest).tolist(), strict=True))

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        work = least_search_work(1, 1)
        of_gpu = "row" in values
        for kind, _ in amounts(1, work, on_gpu=of_gpu):
            entry(values, kind, "rate of nearest neighbors")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        total = 0.0
        for work in case.searches:
            done = {**_on_cpu(work, case.queries), **_on_gpu(work, case.queries)}
            total += sum(rate * done[kind] for kind, rate in values.items())
        return total


COMPONENT = NearestNeighbors()


def amounts(queries: int, work: SearchWork, *, on_gpu: bool = False) -> Key:
    """The amount of each kind of work in a search for so many patches."""
    return tuple((_on_gpu if on_gpu else _on_cpu)(work, queries).items())


def _on_cpu(work: SearchWork, queries: int) -> dict[str, float]:
    return {
        "call": 1,
        "query": queries,
        "feature": queries * work.features,
        "product": queries * work.features * work.codes * work.is_projected,
        "group": queries * work.groups,
        "code": queries * work.groups * GROUP_ROWS * work.codes,
        "visit": queries * work.visits,
        "distance": queries * work.distances,
        "difference": queries * work.distances * work.features,
    }


def _on_gpu(work: SearchWork, queries: int) -> dict[str, float]:
    return {
        "call": 1,
        "query": queries,
        "row": queries * work.rows,
        "value": queries * work.rows * work.features,
    }
