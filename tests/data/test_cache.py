"""The cache of tensors."""

from __future__ import annotations

import pytest
import torch

from autopatch.data import TensorCache
from autopatch.errors import InputError


def test_the_least_recently_used_goes_first() -> None:
    cache = TensorCache(30)
    tensors = {name: torch.zeros(10, dtype=torch.uint8) for name in "abcd"}
    for name in "abc":
        cache.put(name, tensors[name])
    assert cache.get("a") is tensors["a"]
    cache.put("d", tensors["d"])
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    assert cache.held == 30


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = TensorCache(7)
    cache.put("small", torch.zeros(7, dtype=torch.uint8))
    cache.put("large", torch.zeros(2, dtype=torch.float32))
    assert cache.get("large") is None
    assert cache.get("small") is not None
    nothing = TensorCache(0)
    nothing.put("small", torch.zeros(1))
    assert nothing.get("small") is None


def test_another_tensor_of_a_key_takes_its_place() -> None:
    cache = TensorCache(8)
    for size in (4, 8, 2):
        tensor = torch.zeros(size, dtype=torch.uint8)
        cache.put("key", tensor)
        assert cache.get("key") is tensor
        assert cache.held == size
    cache.put("key", torch.zeros(9, dtype=torch.uint8))
    assert cache.get("key") is None
    assert cache.held == 0


def test_room_is_made_for_what_comes() -> None:
    cache = TensorCache(10)
    for name in "abc":
        cache.put(name, torch.zeros(3, dtype=torch.uint8))
    cache.make_room(1)
    assert cache.held == 9
    cache.make_room(2)
    assert [name for name in "abc" if cache.get(name) is not None] == ["b", "c"]
    cache.make_room(11)
    assert cache.held == 0


def test_a_budget_is_not_negative() -> None:
    with pytest.raises(InputError, match="`cache_bytes` is -1"):
        TensorCache(-1)
