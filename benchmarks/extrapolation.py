"""Extrapolates the time of the whole work from calls that do a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def time_whole(benchmark: Any, function: Callable[[], Any], *, rounds: int, part: float) -> Any:
    """Times a function that does a part of the work, and records the time of the whole work. The
    table of pytest-benchmark then compares the members of a group. The name shows the part.

    Args:
        benchmark: The fixture of pytest-benchmark.
        function: Does `part` of the work in each call.
        rounds: Number of calls to time.
        part: Share of the work, in (0, 1].

    Returns:
        Result of the last call.
    """
    result = benchmark.pedantic(function, rounds=rounds)
    if benchmark.stats is not None:  # None with --benchmark-disable
        seconds = benchmark.stats.stats.data
        seconds[:] = [each / part for each in seconds]
        if part < 1:
            benchmark.stats.name += f" (1/{1 / part:,.0f} timed)"
    return result
