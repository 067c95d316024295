"""The latency of the search for nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autopatch.kernels import (
    NearestNeighborIndex,
    aggregate_patches,
    greedy_coreset,
    nearest_neighbors,
)
from autopatch.search.latency.aggregation import mean_patch_size
from autopatch.search.latency.component import Case, Key, whole
from autopatch.search.latency.curves import entry, interpolated, linear, nested, numbers
from autopatch.search.latency.levels import all_level_sets, at_levels, require_levels
from autopatch.search.latency.steps import each_name, step_values
from autopatch.search.latency.timing import Work
from autopatch.supernet import Backbone, Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace

_QUERIES = (64, 512)
_SEED = 0


class NearestNeighbors:
    """The search of the patches in the memory bank, and in the bank of known defects.

    Banks are coresets of patches of good images, and queries are patches of other images, because
    the kernel skips rows that cannot be near: how many depends on the features. The time is linear
    in the number of queries; between numbers of rows and patch sizes it is interpolated in
    logarithms.

    Several neighbors and steps on the features change the time by a factor, which is measured on
    the sets of levels with the fewest and the most channels.
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each set of levels, patch size, number of rows and number of queries, and for
        each option with and without it, at the middle image size."""
        works: list[tuple[Key, Work]] = []
        for number, (name, backbone) in enumerate(bench.level_sets.items()):
            bench.told("banks", number, len(bench.level_sets))
            for patch_size in bench.patch_sizes:
                patches, queries = self._patches(bench, backbone, patch_size)
                rows = _coreset(patches, bench.rows[-1])
                for count in sorted({min(count, len(rows)) for count in bench.rows}):
                    index = NearestNeighborIndex(rows[:count])
                    for asked in sorted({min(n, len(queries)) for n in _QUERIES}):
                        chosen = queries[_spread(len(queries), asked)]
                        work = whole(partial(nearest_neighbors, chosen, index))
                        key = (name, str(patch_size), str(count), str(len(chosen)))
                        works.append((("sets", *key), work))
        neighbors = [int(str(k)) for k in bench.choices("neighbors") if k != 1]
        steps = [each for each in step_values(bench.space) if each.features(8, (8,)) is not None]
        for name in bench.extreme_sets if neighbors or steps else ():
            backbone = bench.level_sets[name]
            patches, queries = self._patches(bench, backbone, bench.patch_sizes[0])
            queries = queries[_spread(len(queries), min(_QUERIES[-1], len(queries)))]
            count = min(bench.rows[len(bench.rows) // 2], len(patches))
            plain = NearestNeighborIndex(_coreset(patches, count))
            works.append((("factors", "", name), whole(partial(nearest_neighbors, queries, plain))))
            for k in neighbors:
                work = whole(partial(nearest_neighbors, queries, plain, min(k, count)))
                works.append((("factors", f"neighbors {k}", name), work))
            channels = tuple(level.channels for level in bench.supernet.levels(backbone))
            for step in steps:
                module = step.features(sum(channels), channels)
                assert module is not None
                module.to(bench.device).fit([patches])
                index = NearestNeighborIndex(_coreset(module(patches), count))
                work = whole(partial(nearest_neighbors, module(queries), index))
                works.append((("factors", step.name, name), work))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by set of levels, patch size, rows and queries; factors by option."""
        parts = nested(timed)
        factors = parts.pop("factors", {})
        plain = factors.pop("", {})
        ratios = {
            option: [seconds / plain[name] for name, seconds in of_set.items()]
            for option, of_set in factors.items()
        }
        return {
            **parts,
            "factors": {option: float(np.prod(r) ** (1 / len(r))) for option, r in ratios.items()},
        }

    def _patches(
        self, bench: Bench, backbone: Backbone, patch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of good images, and queries."""
        size = bench.sizes[len(bench.sizes) // 2]
        sides = (patch_size,) * len(backbone.levels)
        patches = bench.sampled(bench.good_maps(backbone, size), sides)
        queries: torch.Tensor = aggregate_patches(bench.query_maps(backbone, size), sides)
        return patches, queries

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for backbone in all_level_sets(supernet, space).values():
            require_levels(values["sets"], supernet.levels(backbone))

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        head, factors = case.architecture.head, values["factors"]
        factor = 1.0
        if head.neighbors != 1:
            factor *= entry(factors, f"neighbors {head.neighbors}", "option")
        for name, value in head.active_steps():
            known = [one for one in each_name(name, value) if one in factors]
            factor *= max((factors[one] for one in known), default=1.0)
        return factor * sum(self._one(values["sets"], case, rows) for rows in case.banks)

    def _one(self, values: Mapping[str, Any], case: Case, rows: int) -> float:
        def of_set(measured: Mapping[str, Any]) -> float:
            curve = {}
            for patch_size, of_rows in measured.items():
                of_count = {
                    int(count): linear(numbers(of_queries), case.queries)
                    for count, of_queries in of_rows.items()
                }
                curve[int(patch_size)] = interpolated(of_count, rows)
            return interpolated(curve, mean_patch_size(case), clamped=True)

        return at_levels(values, case.levels, of_set)


COMPONENT = NearestNeighbors()


def _coreset(patches: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` rows, in the order in which they are picked."""
    picks, _ = greedy_coreset(patches, min(count, len(patches)), seed=_SEED)
    rows: torch.Tensor = patches[picks]
    return rows


def _spread(count: int, wanted: int) -> torch.Tensor:
    """Indices of `wanted` of `count` queries: eight runs of neighbors."""
    runs = 8 if wanted >= 64 else 1
    starts = torch.linspace(0, max(count - wanted // runs, 0), runs, device="cpu").long()
    places = starts[:, None] + torch.arange(wanted // runs, device="cpu")
    return torch.tensor(sorted(set(places.flatten().tolist())), device="cpu")
