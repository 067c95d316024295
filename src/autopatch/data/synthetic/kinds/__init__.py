"""Kinds of synthetic anomalies. Each is a module with a `Kind`, and an entry of `KINDS`.

A new kind needs one function that gives a region other colors: `KINDS.register("rust",
region_kind(rust))`. A kind with shapes of its own is a `Kind` with a function that draws a `Patch`.
"""

from autopatch.data.synthetic.kinds.kind import (
    AREAS,
    DEFAULT_KINDS,
    KINDS,
    TRANSPLANT,
    Kind,
    region_kind,
)

__all__ = ["AREAS", "DEFAULT_KINDS", "KINDS", "TRANSPLANT", "Kind", "region_kind"]
