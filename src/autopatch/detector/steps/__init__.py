"""Steps of the head that can be left out: one module each, which registers a `Step` in `STEPS`.

Every module of this folder is imported with the package. A step has an off value; with it the step
does not run, and an architecture does not mention it. docs/extending.md shows how to add one.
"""

from __future__ import annotations

import importlib
import pkgutil

from autopatch.detector.steps.step import STEPS, FeatureTransform, ScoreTransform, Step

__all__ = ["STEPS", "FeatureTransform", "ScoreTransform", "Step"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
