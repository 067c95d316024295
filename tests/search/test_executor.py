from __future__ import annotations

import gc
import weakref

import pytest

from autopatch.search import InProcessExecutor


class Array:
    pass


def test_calls_when_submitted() -> None:
    called = []
    with InProcessExecutor() as executor:
        future = executor.submit(lambda x, *, y: called.append((x, y)) or x + y, 1, y=2)
        assert called == [(1, 2)]
    assert future.done()
    assert future.result() == 3


def test_errors_go_into_the_future_others_leave() -> None:
    def broken(error: BaseException) -> None:
        raise error

    executor = InProcessExecutor()
    error = MemoryError("too large")
    assert executor.submit(broken, error).exception() is error
    with pytest.raises(KeyboardInterrupt):
        executor.submit(broken, KeyboardInterrupt())


def test_a_failed_call_lets_go_of_its_memory() -> None:
    kept = []

    def broken() -> None:
        array = Array()
        kept.append(weakref.ref(array))
        raise MemoryError

    gc.collect()
    gc.disable()
    try:
        InProcessExecutor().submit(broken).exception()
        assert kept[0]() is None
    finally:
        gc.enable()
