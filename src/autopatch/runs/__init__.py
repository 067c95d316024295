"""Runs: a search and what is made of it, one call for each command.

- `run_search`: searches a folder of images; `Run`: the result, and `Run.open` an earlier one; it
  fits, evaluates and reports. `is_run`: whether a folder is that of a search.
- `TestResults`, `DetectorResult`: a run on its test part.
- `fit_images`: a detector from a folder of good images, without a search.
- `write_predictions`: predictions of images in a folder; `WrittenPredictions`, `UnreadableImage`.
- `run_demo`: the whole job on drawn images. `system_info`: what is installed.
- `perform_search`, `Inputs`, `load_inputs`, `own_seed`, `Machine`, `SupernetSource`,
  `SplitRequest`, `check_new_run`: the parts of a search, for other ways to make one.
"""

from autopatch.runs.demo import run_demo
from autopatch.runs.fit import fit_images
from autopatch.runs.folder import is_run
from autopatch.runs.info import system_info
from autopatch.runs.predictions import UnreadableImage, WrittenPredictions, write_predictions
from autopatch.runs.results import DetectorResult, TestResults
from autopatch.runs.run import Run
from autopatch.runs.search import Machine, check_new_run, perform_search, run_search
from autopatch.runs.source import Inputs, SplitRequest, SupernetSource, load_inputs, own_seed

__all__ = [
    "DetectorResult",
    "Inputs",
    "Machine",
    "Run",
    "SplitRequest",
    "SupernetSource",
    "TestResults",
    "UnreadableImage",
    "WrittenPredictions",
    "check_new_run",
    "fit_images",
    "is_run",
    "load_inputs",
    "own_seed",
    "perform_search",
    "run_demo",
    "run_search",
    "system_info",
    "write_predictions",
]
