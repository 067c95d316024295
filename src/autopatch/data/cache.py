"""A cache of tensors within a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import torch

from autopatch.errors import InputError


class TensorCache:
    """Keeps tensors by key within a budget; the least recently used are dropped first.

    Several threads and several users may share a cache, if their keys differ.

    Args:
        budget: Largest size of all tensors together, in bytes; 0 keeps none.

    Raises:
        InputError: The budget is negative.
    """

    def __init__(self, budget: int) -> None:
        if budget < 0:
            raise InputError(f"`cache_bytes` is {budget}, expected at least 0")
        self.budget = budget
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Size of all tensors in the cache, in bytes."""
        return self._held

    def get(self, key: Hashable) -> torch.Tensor | None:
        """The tensor of a key, which counts as used; None if the cache does not hold it."""
        with self._lock:
            tensor = self._kept.get(key)
            if tensor is not None:
                self._kept.move_to_end(key)
            return tensor

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        """Keeps a tensor, unless it alone is larger than the budget. It must not change from now
        on."""
        with self._lock:
            previous = self._kept.pop(key, None)
            if previous is not None:
                self._held -= previous.nbytes
            if tensor.nbytes > self.budget:
                return
            self._drop_down_to(self.budget - tensor.nbytes)
            self._kept[key] = tensor
            self._held += tensor.nbytes

    def make_room(self, size: int) -> None:
        """Drops tensors until `size` more bytes fit into the budget, or none is left."""
        with self._lock:
            self._drop_down_to(max(self.budget - size, 0))

    def _drop_down_to(self, size: int) -> None:
        while self._held > size:
            _, oldest = self._kept.popitem(last=False)
            self._held -= oldest.nbytes
