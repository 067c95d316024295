"""The latency of pooled patch features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from autopatch.kernels import aggregate_patches
from autopatch.search.latency.component import Case, Key, whole
from autopatch.search.latency.curves import interpolated, nested, numbers
from autopatch.search.latency.levels import (
    all_level_sets,
    at_levels,
    channels_of,
    require_levels,
)
from autopatch.search.latency.timing import Work
from autopatch.supernet import Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace


class Aggregation:
    """Pooling, resizing and concatenation of the feature maps."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each set of levels, patch size, and the smallest and the largest image size."""
        works: list[tuple[Key, Work]] = []
        for size in sorted({bench.sizes[0], bench.sizes[-1]}):
            for name, backbone in bench.level_sets.items():
                maps = [m[: bench.batch] for m in bench.query_maps(backbone, size)]
                for patch_size in bench.patch_sizes:
                    work = whole(partial(aggregate_patches, maps, (patch_size,) * len(maps)))
                    works.append(((name, str(patch_size), str(size)), work))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by set of levels, patch size and image size."""
        return nested(timed)

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for backbone in all_level_sets(supernet, space).values():
            require_levels(values, supernet.levels(backbone))

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""

        def of_set(measured: Mapping[str, Any]) -> float:
            curve = {
                int(patch_size): interpolated(numbers(of_size), case.size)
                for patch_size, of_size in measured.items()
            }
            return interpolated(curve, mean_patch_size(case), clamped=True)

        return at_levels(values, case.levels, of_set)


COMPONENT = Aggregation()


def mean_patch_size(case: Case) -> float:
    """Geometric mean of the patch sizes, weighted by the channels of their levels."""
    sizes = case.architecture.head.patch_sizes
    logs = sum(level.channels * math.log(p) for level, p in zip(case.levels, sizes, strict=True))
    return math.exp(logs / channels_of(case.levels))
