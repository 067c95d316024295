"""Words of messages: counts and lists of names."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as "1 image" or "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def first_names(names: Sequence[str]) -> str:
    """Joins the first three names, with "..." if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
