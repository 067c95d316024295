"""A cache within a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from autopatch.errors import InputError


class Cache:
    """Keeps values by key within a budget; the least recently used are dropped first.

    Several threads and several users may share a cache, if their keys differ.

    Args:
        budget: Largest size of all values together, in bytes; 0 keeps none.

    Raises:
        InputError: The budget is negative.
    """

    def __init__(self, budget: int) -> None:
        if budget < 0:
            raise InputError(f"`cache_bytes` is {budget}, expected at least 0")
        self.budget = budget
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Size of all values in the cache, in bytes."""
        return self._held

    def get(self, key: Hashable) -> Any:
        """The value of a key, which counts as used; None if the cache does not hold it."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: object, size: int) -> None:
        """Keeps a value, in place of an earlier one of this key.

        Args:
            key: The key.
            value: The value; must not change from now on.
            size: Its size in bytes. A value larger than the whole budget is not kept.
        """
        with self._lock:
            earlier = self._kept.pop(key, None)
            if earlier is not None:
                self._held -= earlier[1]
            if size <= self.budget:
                self._drop_down_to(self.budget - size)
                self._kept[key] = value, size
                self._held += size

    def make_room(self, size: int) -> None:
        """Drops values until `size` more bytes fit into the budget, or none is left."""
        with self._lock:
            self._drop_down_to(max(self.budget - size, 0))

    def _drop_down_to(self, size: int) -> None:
        while self._held > size:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._held -= oldest
