"""Searches, and what is made of them: one call for each command.

- `run_search`: searches a folder of images. `Run`: the result; `Run.open` opens an earlier one. It
  fits, evaluates and reports. `is_run`: whether a folder is that of a search.
- `TestResults`, `DetectorResult`: the results of a run on its test part.
- `fit_images`: a detector from a folder of good images, without a search.
- `write_predictions`: writes the predictions of images; `WrittenPredictions`, `UnreadableImage`.
- `run_demo`: all steps on synthetic images. `system_info`: versions and hardware.
- `perform_search`, `Inputs`, `load_inputs`, `own_seed`, `Machine`, `SupernetSource`,
  `SplitRequest`, `check_new_run`: the parts of a search, for other ways to run one.
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
