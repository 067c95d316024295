"""Training-free neural architecture search for visual anomaly segmentation.

One function for each command of the command line:

- `run_search(data, out)`: runs a search on a folder of images and returns a `Run`.
- `Run.open(path)`: opens a run folder; `run.front`, `run.pick`, `run.fit()`, `run.evaluate()`,
  `run.report()`, `run.to_dataframe()`.
- `Detector.fit(good_images)`, `Detector.load(path)`: make a detector; `detector.predict(images)`.
- `fit_images(folder, out)`, `update_detector(detector, out)`,
  `write_predictions(detector, images, out)`, `synthesize(data, out)`, `check_folder(data)`,
  `check_deep(data)`, `import_study(file, data, out)`, `measure_latency(images, out)`,
  `run_demo(out)`, `system_info()`: the other commands.

Subpackages:

- `autopatch.kernels`: the fast kernels, on torch or NumPy arrays.
- `autopatch.data`: data sets, splits, images and masks.
- `autopatch.supernet`: backbones by name, and backbone families.
- `autopatch.detector`: architectures; detectors: fit, predict, save, load.
- `autopatch.search`: the multi-objective search and its record.
- `autopatch.report`: overlays, the Pareto plot, the report page.
- `autopatch.runs`: run folders.
- `autopatch.published`: AutoPatch as published.

Subpackages are imported on first use, so that `import autopatch` stays fast.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("autopatch")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

_HOMES = {
    "Architecture": "autopatch.detector",
    "Backbone": "autopatch.supernet",
    "Defect": "autopatch.detector",
    "Detector": "autopatch.detector",
    "Head": "autopatch.detector",
    "Input": "autopatch.detector",
    "InputError": "autopatch.errors",
    "MVTecAD": "autopatch.data",
    "MachineError": "autopatch.errors",
    "Prediction": "autopatch.detector",
    "Reading": "autopatch.data",
    "Run": "autopatch.runs",
    "SearchError": "autopatch.search",
    "check_deep": "autopatch.runs",
    "check_folder": "autopatch.data",
    "fit_images": "autopatch.runs",
    "import_study": "autopatch.published.imported",
    "load_supernet": "autopatch.supernet",
    "make_split": "autopatch.data",
    "measure_latency": "autopatch.runs",
    "run_demo": "autopatch.runs",
    "run_search": "autopatch.runs",
    "synthesize": "autopatch.runs",
    "system_info": "autopatch.runs",
    "update_detector": "autopatch.runs",
    "write_predictions": "autopatch.runs",
}
_SUBPACKAGES = (
    "data",
    "detector",
    "kernels",
    "published",
    "report",
    "runs",
    "search",
    "supernet",
)

__all__ = [*sorted(_HOMES), *_SUBPACKAGES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"autopatch.{name}")
    raise AttributeError(f"module 'autopatch' has no attribute {name!r}")
