"""One function for each command: search, fit, update, evaluate, report, predict, measure-latency,
synthesize, demo, info.

- `run_search`: runs a search on a folder of images. `Run`: its result, with methods to fit,
  evaluate and report; `Run.open` opens an earlier one. `is_run`: whether a folder is a run folder.
- `TestResults`, `DetectorResult`: the results of a run on its test set.
- `fit_images`: fits a detector on a folder of good images, without a search. `update_detector`:
  adds known defects and further good images to it.
- `measure_latency`: measures how long detectors of a search space take on this machine.
- `write_predictions`: writes the predictions for images; `WrittenPredictions`, `UnreadableImage`.
- `check_deep`: finds images among the good ones of a data set that may show defects; `DeepCheck`,
  `ComparedImage`: its results.
- `synthesize`: draws synthetic anomalies on the good images of a data set.
- `run_demo`: all steps on synthetic images. `system_info`: versions and hardware.
- `perform_search`, `Inputs`, `load_inputs`, `own_seed`, `Machine`, `SupernetSource`,
  `SplitRequest`, `check_new_run`, `require_shots`: the building blocks of `run_search`, for other
  kinds of searches.
"""

from autopatch.runs.check import ComparedImage, DeepCheck, check_deep
from autopatch.runs.demo import run_demo
from autopatch.runs.fit import fit_images
from autopatch.runs.folder import is_run
from autopatch.runs.info import system_info
from autopatch.runs.latency import measure_latency
from autopatch.runs.predictions import UnreadableImage, WrittenPredictions, write_predictions
from autopatch.runs.results import DetectorResult, TestResults
from autopatch.runs.run import Run
from autopatch.runs.search import Machine, check_new_run, perform_search, require_shots, run_search
from autopatch.runs.source import Inputs, SplitRequest, SupernetSource, load_inputs, own_seed
from autopatch.runs.synthesize import synthesize
from autopatch.runs.update import update_detector

__all__ = [
    "ComparedImage",
    "DeepCheck",
    "DetectorResult",
    "Inputs",
    "Machine",
    "Run",
    "SplitRequest",
    "SupernetSource",
    "TestResults",
    "UnreadableImage",
    "WrittenPredictions",
    "check_deep",
    "check_new_run",
    "fit_images",
    "is_run",
    "load_inputs",
    "measure_latency",
    "own_seed",
    "perform_search",
    "require_shots",
    "run_demo",
    "run_search",
    "synthesize",
    "system_info",
    "update_detector",
    "write_predictions",
]
