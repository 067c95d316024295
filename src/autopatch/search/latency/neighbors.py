"""The latency of the search for nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autopatch.detector import STEPS
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
_ALL_PATCHES = "all patches"


class NearestNeighbors:
    """The search of the patches in the memory bank, and in the bank of known defects.

    Banks are coresets of patches of good images, and queries are patches of other images, because
    the kernel skips rows that cannot be near: how many depends on the features. The time is linear
    in the number of queries; between numbers of rows and patch sizes it is interpolated in
    logarithms.

    Several neighbors, a bank of all patches instead of a coreset, and steps that keep the number of
    features change the time by a factor, which depends on the number of rows. It is measured on the
    sets of levels with the fewest and the most channels. Steps that change the number of features
    are measured on the latter, and assumed to make all sets alike.
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each set of levels, patch size, number of rows and number of queries, and for
        each option, at the middle image size."""
        works: list[tuple[Key, Work]] = []
        for number, (name, backbone) in enumerate(bench.level_sets.items()):
            bench.told("banks", number, len(bench.level_sets))
            for patch_size in bench.patch_sizes:
                patches, queries = self._patches(bench, backbone, patch_size)
                works += _searches(bench, ("sets", name, str(patch_size)), patches, queries)
        neighbors = [int(str(k)) for k in bench.choices("neighbors") if k != 1]
        steps = step_values(bench.space)
        for name in bench.extreme_sets:
            backbone = bench.level_sets[name]
            channels = tuple(level.channels for level in bench.supernet.levels(backbone))
            patches, queries = self._patches(bench, backbone, bench.usual_patch_size)
            coreset = _coreset(patches, bench.rows[-1])
            works += self._factors(bench, name, "", coreset, queries, 1)
            works += self._factors(bench, name, _ALL_PATCHES, _shuffled(patches), queries, 1)
            for k in neighbors:
                works += self._factors(bench, name, f"neighbors {k}", coreset, queries, k)
            for step in steps:
                module = step.features(sum(channels), channels)
                if module is not None and module.out_features == sum(channels):
                    module.to(bench.device).fit([patches])
                    rows = _coreset(module(patches), bench.rows[-1])
                    works += self._factors(bench, name, step.name, rows, module(queries), 1)
        widest = bench.level_sets[bench.extreme_sets[-1]]
        channels = tuple(level.channels for level in bench.supernet.levels(widest))
        for step in steps:
            module = step.features(sum(channels), channels)
            if module is not None and module.out_features != sum(channels):
                for patch_size in bench.patch_sizes:
                    patches, queries = self._patches(bench, widest, patch_size)
                    module.to(bench.device).fit([patches])
                    key = ("changed", step.name, str(patch_size))
                    works += _searches(bench, key, module(patches), module(queries))
        return works

    @staticmethod
    def _factors(
        bench: Bench,
        name: str,
        option: str,
        rows: torch.Tensor,
        queries: torch.Tensor,
        neighbors: int,
    ) -> list[tuple[Key, Work]]:
        """The searches of one option in one set of levels, one for each number of rows."""
        chosen = queries[_spread(len(queries), min(_QUERIES[-1], len(queries)))]
        works: list[tuple[Key, Work]] = []
        for count in sorted({min(count, len(rows)) for count in bench.rows}):
            index, k = NearestNeighborIndex(rows[:count]), min(neighbors, count)
            work = whole(partial(nearest_neighbors, chosen, index, k))
            works.append((("factors", option, name, str(count)), work))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by set of levels, patch size, rows and queries; of steps that change the number
        of features, by step, patch size, rows and queries; factors by option and rows."""
        parts = nested(timed)
        measured = parts.pop("factors", {})
        plain = measured.pop("", {})
        factors: dict[str, dict[str, float]] = {}
        for option, of_sets in measured.items():
            ratios: dict[str, list[float]] = {}
            for name, of_rows in of_sets.items():
                for count, seconds in of_rows.items():
                    ratios.setdefault(count, []).append(seconds / plain[name][count])
            factors[option] = {
                count: float(np.prod(each) ** (1 / len(each))) for count, each in ratios.items()
            }
        return {"changed": {}, **parts, "factors": factors}

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
        several = {k for k in space.choices("head", "neighbors") if k != 1}
        for option in (_ALL_PATCHES, *(f"neighbors {k}" for k in sorted(map(str, several)))):
            entry(values["factors"], option, "option")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        memory, *others = case.banks
        head, options = case.architecture.head, []
        if head.neighbors != 1:
            options.append(f"neighbors {head.neighbors}")
        if head.bank_size is None:
            options.append(_ALL_PATCHES)
        seconds = self._one(values, case, memory, options)
        return seconds + sum(self._one(values, case, rows, ()) for rows in others)

    def _one(
        self, values: Mapping[str, Any], case: Case, rows: int, options: Sequence[str]
    ) -> float:
        def of_set(measured: Mapping[str, Any]) -> float:
            curve = {}
            for patch_size, of_rows in measured.items():
                of_count = {
                    int(count): linear(numbers(of_queries), case.queries)
                    for count, of_queries in of_rows.items()
                }
                curve[int(patch_size)] = interpolated(of_count, rows)
            return interpolated(curve, mean_patch_size(case), clamped=True)

        head, factors = case.architecture.head, values["factors"]
        options = list(options)
        for option in options:
            entry(factors, option, "option")
        channels = tuple(level.channels for level in case.levels)
        seconds, features = None, sum(channels)
        for name, value in head.active_steps():
            names = each_name(name, value)
            options += sorted(set(names) & factors.keys())[:1]
            changed = [one for one in names if one in values["changed"]]
            module = STEPS[name].features(value, features, channels) if changed else None
            if module is not None:
                seconds, features = of_set(values["changed"][changed[0]]), module.out_features
        if seconds is None:
            seconds = at_levels(values["sets"], case.levels, of_set)
        for option in options:
            seconds *= interpolated(numbers(factors[option]), rows, clamped=True)
        return seconds


COMPONENT = NearestNeighbors()


def _coreset(patches: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` rows, in the order in which they are picked."""
    picks, _ = greedy_coreset(patches, min(count, len(patches)), seed=_SEED)
    rows: torch.Tensor = patches[picks]
    return rows


def _shuffled(patches: torch.Tensor) -> torch.Tensor:
    """The patches in an order that is random but always alike."""
    generator = torch.Generator("cpu").manual_seed(_SEED)
    order = torch.randperm(len(patches), generator=generator, device="cpu")
    return patches[order.to(patches.device)]


def _searches(
    bench: Bench, key: Key, patches: torch.Tensor, queries: torch.Tensor
) -> list[tuple[Key, Work]]:
    """Searches in a bank of the patches, for each number of rows and of queries."""
    rows = _coreset(patches, bench.rows[-1])
    works: list[tuple[Key, Work]] = []
    for count in sorted({min(count, len(rows)) for count in bench.rows}):
        index = NearestNeighborIndex(rows[:count])
        for asked in sorted({min(n, len(queries)) for n in _QUERIES}):
            chosen = queries[_spread(len(queries), asked)]
            work = whole(partial(nearest_neighbors, chosen, index))
            works.append(((*key, str(count), str(len(chosen))), work))
    return works


def _spread(count: int, wanted: int) -> torch.Tensor:
    """Indices of `wanted` of `count` queries: eight runs of neighbors."""
    runs = 8 if wanted >= 64 else 1
    starts = torch.linspace(0, max(count - wanted // runs, 0), runs, device="cpu").long()
    places = starts[:, None] + torch.arange(wanted // runs, device="cpu")
    return torch.tensor(sorted(set(places.flatten().tolist())), device="cpu")
