"""A limit on latency that architectures are compared with before they are fitted."""

from __future__ import annotations

import math
from dataclasses import replace

from autopatch.detector import Architecture
from autopatch.search.latency.component import Case
from autopatch.search.latency.table import LatencyTable
from autopatch.supernet import Supernet


class LatencyLimit:
    """Tells which architectures are fast enough to be fitted.

    The latency is read off a table for a detector without known defects, whose number is not known
    before it is fitted. So a detector may still turn out slower than the limit, but none that would
    be within it is kept out.

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
        """Whether an architecture is within the limit."""
        return self.seconds(architecture) <= self.limit

    def seconds(self, architecture: Architecture) -> float:
        """Seconds per image of an architecture.

        Raises:
            InputError: The table does not cover it.
        """
        grid = self._supernet.grid(architecture.backbone, architecture.input.size)
        patches = self._images * math.prod(grid)
        head = architecture.head.for_patches(patches)
        rows = patches if head.bank_size is None else head.bank_size
        return self._table.seconds(Case(self._supernet, replace(architecture, head=head), (rows,)))
