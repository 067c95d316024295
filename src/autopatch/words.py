"""Words of messages: counts and lists of names."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as "1 image" or "2 images"."""
    return f"{count:,} {by_count(count, noun, f'{noun}s')}"


def by_count(count: int, one: str, many: str) -> str:
    """The singular for a count of 1, the plural for any other, such as "is" or "are"."""
    return one if count == 1 else many


def first_names(names: Sequence[str]) -> str:
    """Joins the first three names, with "..." if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
