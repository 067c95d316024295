"""The cache."""

from __future__ import annotations

import pytest

from autopatch.data import Cache
from autopatch.errors import InputError


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(30)
    for name in "abc":
        cache.put(name, name.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    assert cache.held == 30


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = Cache(7)
    cache.put("small", object(), 7)
    cache.put("large", object(), 8)
    assert cache.get("large") is None
    assert cache.get("small") is not None
    nothing = Cache(0)
    nothing.put("small", object(), 1)
    assert nothing.get("small") is None


def test_another_value_of_a_key_takes_its_place() -> None:
    cache = Cache(8)
    for size in (4, 8, 2):
        value = object()
        cache.put("key", value, size)
        assert cache.get("key") is value
        assert cache.held == size
    cache.put("key", object(), 9)
    assert cache.get("key") is None
    assert cache.held == 0


def test_room_is_made_for_what_comes() -> None:
    cache = Cache(10)
    for name in "abc":
        cache.put(name, object(), 3)
    cache.make_room(1)
    assert cache.held == 9
    cache.make_room(2)
    assert [name for name in "abc" if cache.get(name) is not None] == ["b", "c"]
    cache.make_room(11)
    assert cache.held == 0


def test_a_budget_is_not_negative() -> None:
    with pytest.raises(InputError, match="`cache_bytes` is -1"):
        Cache(-1)
