"""Progress callbacks of long steps."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the number of images, bytes or candidates done, and their
total."""
