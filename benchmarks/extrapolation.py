"""Times of the whole work from calls that do a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def time_whole(benchmark: Any, function: Callable[[], Any], *, rounds: int, part: float) -> Any:
    """Times a function that does a part of the work and records the time of all of it, so that the
    table which pytest-benchmark prints compares the members of a group. The name says which part.

    Args:
        benchmark: The fixture of pytest-benchmark.
        function: Does `part` of the work in each call.
        rounds: Calls to time.
        part: Share of the work, in (0, 1].

    Returns:
        What the last call gave.
    """
    result = benchmark.pedantic(function, rounds=rounds)
    if benchmark.stats is not None:  # None with --benchmark-disable
        seconds = benchmark.stats.stats.data
        seconds[:] = [each / part for each in seconds]
        if part < 1:
            benchmark.stats.name += f" (1/{1 / part:,.0f} timed)"
    return result
