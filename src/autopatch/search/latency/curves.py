"""Values between measured ones."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autopatch.errors import InputError


def entry(values: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry of a table with a name.

    Raises:
        InputError: There is none.
    """
    if name not in values:
        raise InputError(f"the latency table has no {what} {name!r}")
    return values[name]


def require_within(what: str, known: Iterable[int], wanted: Iterable[Any]) -> None:
    """Raises InputError if a wanted value is below or above all measured ones.

    Args:
        what: What the values are, for the message.
        known: The measured values.
        wanted: The wanted values.
    """
    measured = sorted(known)
    for value in wanted:
        if not measured[0] <= value <= measured[-1]:
            raise InputError(
                f"the latency table covers the {what}s {measured[0]} to {measured[-1]}, but not "
                f"{value}"
            )


def numbers(values: Mapping[str, float]) -> dict[int, float]:
    """The entries of a table by number."""
    return {int(key): value for key, value in values.items()}


def interpolated(curve: Mapping[int, float], at: float, *, clamped: bool = False) -> float:
    """A value between measured ones, linear in the logarithms of both; outside of them the line
    through the two nearest goes on if it rises, unless it is `clamped`."""
    known = sorted(curve)
    if len(known) == 1 or (clamped and not known[0] < at < known[-1]):
        return curve[known[0] if at <= known[0] else known[-1]]
    after = min(max(bisect_left(known, at), 1), len(known) - 1)
    x0, x1 = math.log(known[after - 1]), math.log(known[after])
    y0, y1 = (math.log(max(curve[known[i]], 1e-9)) for i in (after - 1, after))
    if not known[0] <= at <= known[-1] and y1 < y0:
        return curve[known[0] if at < known[0] else known[-1]]
    return math.exp(y0 + (y1 - y0) * (math.log(at) - x0) / (x1 - x0))


def linear(curve: Mapping[int, float], at: float) -> float:
    """A value on the line through the smallest and the largest measured one, which never falls; if
    one is measured, in proportion to it."""
    first, last = min(curve), max(curve)
    if first == last:
        return curve[last] * at / last
    slope = max((curve[last] - curve[first]) / (last - first), 0.0)
    return max(curve[last] + slope * (at - last), 0.0) or curve[first]


def nested(timed: Iterable[tuple[tuple[str, ...], Sequence[float]]]) -> dict[str, Any]:
    """Seconds by the parts of their keys."""
    result: dict[str, Any] = {}
    for key, (seconds,) in timed:
        inner = result
        for part in key[:-1]:
            inner = inner.setdefault(part, {})
        inner[key[-1]] = seconds
    return result
