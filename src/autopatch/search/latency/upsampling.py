"""The latency of anomaly maps from the scores of patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from autopatch.detector import FittedHead, Head, PatchAggregator
from autopatch.search.latency.component import Case, Key, whole
from autopatch.search.latency.curves import entry, interpolated, nested, numbers
from autopatch.search.latency.timing import Work
from autopatch.supernet import Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace


class Upsampling:
    """Resizing and smoothing of the distances to the anomaly map, and its maximum."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each strength of smoothing and each of three numbers of patches."""
        grids = sorted(
            {
                bench.supernet.grid(backbone, size)
                for backbone in bench.level_sets.values()
                for size in bench.sizes
            }
        )
        works: list[tuple[Key, Work]] = []
        # Unsmoothed as well: the PatchCore baseline is.
        for smoothing in sorted({0.0, *(float(str(s)) for s in bench.choices("smoothing"))}):
            head = FittedHead.of(
                Head((1,), smoothing=smoothing),
                PatchAggregator((1,)),
                torch.zeros((1, 1), device=bench.device),
                radius=0.0,
                size=bench.side,
            )
            for place in sorted({0, len(grids) // 2, len(grids) - 1}):
                patches = torch.zeros((bench.batch, *grids[place], 1), device=bench.device)
                key = (str(smoothing), str(bench.batch * math.prod(grids[place])))
                works.append((key, whole(partial(self._run, head, patches))))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by smoothing and number of patches per batch."""
        return nested(timed)

    @staticmethod
    def _run(head: FittedHead, patches: torch.Tensor) -> None:
        head.maps_of(patches, patches.flatten()).flatten(1).amax(dim=1)

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for smoothing in space.choices("head", "smoothing"):
            entry(values, str(float(str(smoothing))), "smoothing")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        measured = entry(values, str(float(case.architecture.head.smoothing)), "smoothing")
        return interpolated(numbers(measured), case.queries, clamped=True)


COMPONENT = Upsampling()
