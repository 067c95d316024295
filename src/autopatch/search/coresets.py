"""The coresets that candidates share."""

from __future__ import annotations

from dataclasses import replace

from autopatch.data import Cache
from autopatch.detector import Architecture, Coreset, GoodMaps, PatchAggregator, fit_patches


class Coresets:
    """Keeps the coresets of candidates in a cache.

    If the patches fit into memory, the first rows of a coreset are the coreset of a smaller bank.
    Then candidates that differ only in a smaller bank size, or in what comes after the bank, share
    one coreset; otherwise only those of the same bank size do. So a candidate's bank never depends
    on what was evaluated before. Several threads may use it.

    Args:
        cache: Keeps the rows, perhaps beside other things.

    Attributes:
        chosen: Number of coresets that were chosen.
        reused: Number of those that the cache already had.
    """

    def __init__(self, cache: Cache) -> None:
        self.chosen = 0
        self.reused = 0
        self._cache = cache

    def get(self, architecture: Architecture, good: GoodMaps) -> tuple[PatchAggregator, Coreset]:
        """The fitted aggregator and a coreset whose first rows are the architecture's bank.

        Args:
            architecture: The candidate.
            good: Its feature maps of the fit images.
        """
        head = architecture.head
        size = good.patches if head.bank_size is None else min(head.bank_size, good.patches)
        key = "coreset", before_bank(architecture)
        found: tuple[PatchAggregator, Coreset] | None = self._cache.get(key)
        if found is None or not _begins_with(found[1], size):
            found = fit_patches(good, head)
            self._cache.put(key, found, found[1].rows.nbytes)
            self.chosen += 1
        else:
            self.reused += 1
        return found


def before_bank(architecture: Architecture) -> Architecture:
    """The architecture with only what comes before its bank: what its patch features and its
    coreset depend on."""
    head = replace(architecture.head, bank_size=None, neighbors=1, defects=None, smoothing=0)
    return replace(architecture, head=head)


def _begins_with(coreset: Coreset, size: int) -> bool:
    """Whether the first rows of a coreset are the coreset of `size` rows."""
    rows = len(coreset.rows)
    if coreset.lost or rows == coreset.patches:  # thinned for its size, or all patches in order
        return size == rows
    return size <= rows
