"""Training-free neural architecture search for visual anomaly segmentation.

- `autopatch.kernels`: the fast kernels, on torch or NumPy arrays.
- `autopatch.data`: MVTec-AD folders, splits, images and masks.
- `autopatch.supernet`: backbones, architectures and search spaces.
- `autopatch.detector`: fit, predict, evaluate, save and load a detector.
- `autopatch.search`: the multi-objective search, its record and its run folder.
- `autopatch.report`: overlays, the Pareto picture, the report page.

Subpackages are imported when first used, so that `import autopatch` stays quick.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("autopatch")
except PackageNotFoundError:  # a source tree that is on the path but not installed
    __version__ = "0+unknown"

_HOMES = {
    "Architecture": "autopatch.supernet",
    "Detector": "autopatch.detector",
    "InputError": "autopatch.errors",
    "MVTecAD": "autopatch.data",
    "load_supernet": "autopatch.supernet",
    "make_split": "autopatch.data",
}
_SUBPACKAGES = ("data", "detector", "kernels", "report", "search", "supernet")

__all__ = [*sorted(_HOMES), *_SUBPACKAGES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"autopatch.{name}")
    raise AttributeError(f"module 'autopatch' has no attribute {name!r}")
