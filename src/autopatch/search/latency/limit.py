"""A limit on latency that architectures are compared with before they are fitted."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from autopatch.detector import Architecture, Head, PatchAggregator
from autopatch.genes import Settings
from autopatch.kernels import least_search_work
from autopatch.search.latency.component import Case
from autopatch.search.latency.table import LatencyTable
from autopatch.supernet import Supernet


class LatencyLimit:
    """Tells which architectures may be fast enough to be fitted.

    What the search for nearest neighbors does is not known before a detector is fitted, nor is the
    number of known defects. So the latency is that of the least it can do, without known defects. A
    detector may turn out slower than the limit. None that would be within it is kept out, unless
    many rows of its bank are identical.

    Args:
        table: The table.
        supernet: The supernet of the architectures.
        images: Number of good images for the bank.
        seconds: The limit, per image.
    """

    def __init__(
        self, table: LatencyTable, supernet: Supernet, *, images: int, seconds: float
    ) -> None:
        self.limit = seconds
        self._table = table
        self._supernet = supernet
        self._images = images

    def __call__(self, architecture: Architecture) -> bool:
        """Whether an architecture may be within the limit."""
        return self.seconds(architecture) <= self.limit

    def seconds(self, architecture: Architecture) -> float:
        """The least seconds per image of an architecture.

        Raises:
            InputError: The table does not cover it.
        """
        grid = self._supernet.grid(architecture.backbone, architecture.input.size)
        patches = self._images * math.prod(grid)
        head = architecture.head.for_patches(patches)
        rows = patches if head.bank_size is None else head.bank_size
        levels = self._supernet.levels(architecture.backbone)
        features = _features(head.steps, tuple(level.channels for level in levels))
        work = least_search_work(rows, features)
        return self._table.seconds(Case(self._supernet, replace(architecture, head=head), (work,)))


@lru_cache(maxsize=4096)
def _features(steps: Settings, channels: tuple[int, ...]) -> int:
    """Features of a patch of levels with so many channels, after the steps of a head."""
    aggregator = PatchAggregator.of(Head((1,) * len(channels), steps=steps), channels)
    return aggregator.out_features(sum(channels))
