"""How a long step tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a step's name, how many of its images, bytes or candidates are done, and how many
there are."""
