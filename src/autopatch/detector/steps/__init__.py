"""Optional steps of the head. Each is a module that registers a `Step` in `STEPS`.

All modules of this folder are imported with the package. Every step has an off value. A step that
is off does not run and is not stored in an architecture. docs/extending.md shows how to add a step.
"""

from __future__ import annotations

import importlib
import pkgutil

from autopatch.detector.steps.step import STEPS, FeatureTransform, ScoreTransform, Step

__all__ = ["STEPS", "FeatureTransform", "ScoreTransform", "Step"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
