"""The cache of coresets."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from autopatch.detector import Architecture, Coreset, GoodMaps, PatchAggregator, fit_patches

_CACHE_BYTES = 256 << 20


class Coresets:
    """Keeps the coresets of recent candidates.

    The first rows of a coreset are the coreset of a smaller bank, so candidates that differ only in
    a smaller bank size, or in what comes after the bank, share one coreset. The least recently used
    ones are dropped. Several threads may share the cache.

    Args:
        cache_bytes: Bytes of rows to keep.
    """

    def __init__(self, cache_bytes: int = _CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[Architecture, tuple[PatchAggregator, Coreset]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, architecture: Architecture, good: GoodMaps) -> tuple[PatchAggregator, Coreset]:
        """The fitted aggregator and a coreset of at least the architecture's bank size.

        Args:
            architecture: The candidate.
            good: Its feature maps of the fit images.
        """
        head = architecture.head
        size = good.patches if head.bank_size is None else min(head.bank_size, good.patches)
        key = replace(
            architecture,
            head=replace(head, bank_size=None, neighbors=1, defects=None, smoothing=0),
        )
        with self._lock:
            found = self._kept.get(key)
            if found is not None and size <= len(found[1].rows) and not _is_all(found, size):
                self._kept.move_to_end(key)
                return found
        found = fit_patches(good, head)
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            while sum(map(_bytes, self._kept.values())) > self._cache_bytes:
                self._kept.popitem(last=False)
        return found


def _is_all(found: tuple[PatchAggregator, Coreset], size: int) -> bool:
    """Whether the kept bank holds all patches, whose order is not that of a coreset."""
    coreset = found[1]
    return len(coreset.rows) == coreset.patches and size < coreset.patches


def _bytes(found: tuple[PatchAggregator, Coreset]) -> int:
    return found[1].rows.numel() * found[1].rows.element_size()
