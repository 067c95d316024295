"""A search opened from its run folder: fit, evaluate, report, and the trials as a table."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch

from autopatch.detector import Architecture, Detector, check_rate
from autopatch.errors import InputError
from autopatch.files import StrPath, require_writable_file
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.report import require_report_folder
from autopatch.runs.fit import patchcore_setting, read_architecture, require_new_file
from autopatch.runs.record import RunRecord
from autopatch.runs.report import write_run_report
from autopatch.runs.results import TestResults, evaluate_run
from autopatch.search import OBJECTIVES, RULES, non_dominated

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class Run(RunRecord):
    """A finished search, with methods to fit, evaluate and report.

    See `RunRecord` for its attributes.
    """

    def fit(
        self,
        architecture: Architecture | StrPath | None = None,
        *,
        trial: int | None = None,
        patchcore: bool = False,
        rule: str | None = None,
        false_alarm_rate: float = 0.05,
        out: StrPath | None = None,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> Detector:
        """Fits a detector on the good images of the run, sets its threshold, and saves it.

        Args:
            architecture: An architecture to fit, or a JSON file that holds one. By default, the
                pick of the search is fitted.
            trial: Number of a trial to fit instead of the pick.
            patchcore: Whether to fit the PatchCore baseline instead of the pick.
            rule: Rule that picks a trial instead of that of the search: "robust", "best" or "knee".
            false_alarm_rate: Share of good images that may be called anomalous.
            out: File to write; "detector.safetensors" in the run folder if None.
            device: "cpu", "cuda" or "cuda:<number>".
            progress: Called after every batch of images.

        Raises:
            InputError: More than one of `architecture`, `trial`, `patchcore` and `rule` is given,
                the search did not measure what the rule compares, the file exists or cannot be
                written, the data set or the weights are missing or changed, or the architecture
                cannot be fitted.
        """
        if (architecture is not None) + (trial is not None) + patchcore + (rule is not None) > 1:
            raise InputError(
                "give one of `trial`, `patchcore`, `architecture` and `rule`, not several"
            )
        where = usable_device(device)
        target = Path(out) if out is not None else self.detector_path
        require_new_file(target)
        check_rate(false_alarm_rate)
        self.require_same_data()
        detector = self.fit_architecture(
            self._chosen(architecture, trial, patchcore, rule),
            false_alarm_rate=false_alarm_rate,
            device=where,
            progress=progress,
        )
        logger.info(detector.architecture.describe(self.supernet))
        detector.save(target)
        return detector

    def _chosen(
        self,
        architecture: Architecture | StrPath | None,
        trial: int | None,
        patchcore: bool,
        rule: str | None,
    ) -> Architecture:
        if architecture is not None:
            return read_architecture(architecture)
        if trial is not None:
            return self.trial(trial).architecture
        if patchcore:
            return patchcore_setting(self.supernet, images=len(self.good))
        pick = self.pick if rule is None else self.front.pick_by(RULES[rule])
        assert pick.evaluation is not None
        quality = self.objectives[-1] if rule is None else OBJECTIVES[RULES[rule].quality]
        found = {**pick.evaluation.metrics, **pick.evaluation.values}
        logger.info(
            "trial %d, picked by the rule %s: %s %.1f",
            pick.number,
            rule or self.rule,
            quality.name,
            quality.display(found[quality.name]),
        )
        return pick.architecture

    def evaluate(
        self,
        detector: Detector | StrPath | None = None,
        *,
        cache_gib: float = 4.0,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> TestResults:
        """Measures a fitted detector, the PatchCore baseline and the front on the test set.

        Saves the results in the run folder.

        Args:
            detector: A detector or its file; "detector.safetensors" in the run folder if None.
            cache_gib: Memory for decoded images and feature maps that candidates share, in GiB.
            device: Device of a detector loaded from a file: "cpu", "cuda" or "cuda:<number>".
                Everything else runs on the detector's device.
            progress: Called after every batch of images.

        Raises:
            InputError: The detector is missing or does not belong to this run, the data set or the
                weights are missing, or images have changed since the search.
        """
        fitted = self._detector(detector, usable_device(device))
        require_writable_file(self.results_path)
        self.require_same_data()
        results = evaluate_run(self, fitted, cache_bytes=cache_bytes(cache_gib), progress=progress)
        results.save(self.path)
        return results

    def report(
        self,
        detector: Detector | StrPath | None = None,
        *,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> Path:
        """Writes the report of the run.

        It shows the front. If `evaluate` has run, it includes test results; if there is a detector,
        the threshold and pictures of images.

        Args:
            detector: A detector or its file; if None, "detector.safetensors" in the run folder if
                it exists.
            device: Device of a detector loaded from a file: "cpu", "cuda" or "cuda:<number>".
            progress: Called after every batch of images.

        Returns:
            Path of the page, "report/report.html" in the run folder.

        Raises:
            InputError: The detector is missing or does not belong to this run, the data set or the
                weights are missing, images have changed since the search, or the report cannot be
                written.
        """
        where, fitted = usable_device(device), None
        if detector is not None or self.detector_path.is_file():
            fitted = self._detector(detector, where)
        require_report_folder(self.report_path.parent)
        self.require_same_data()
        return write_run_report(self, fitted, progress=progress)

    def _detector(self, detector: Detector | StrPath | None, device: torch.device) -> Detector:
        if isinstance(detector, Detector):
            return detector
        file = Path(detector) if detector is not None else self.detector_path
        if not file.is_file():
            raise InputError(
                f"{file}: no such file; fit a detector first: autopatch fit {quote(str(self.path))}"
            )
        return Detector.load(file, device=device)

    def to_dataframe(self) -> pd.DataFrame:
        """All trials as a table.

        Columns: number, whether the trial is on the front, whether it is the pick, why it has no
        result, parameters, values of the objectives and of what is bounded, metrics, timings in
        seconds, and shares of the work that was in the cache.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_dataframe needs pandas: pip install pandas") from error
        trials = non_dominated(self.trials, self.objectives, self.constraints)
        front = {trial.number for trial in trials}
        pick = self.pick.number if front else None
        rows = []
        for trial in self.trials:
            row: dict[str, Any] = {
                "trial": trial.number,
                "on_front": trial.number in front,
                "is_pick": trial.number == pick,
                "reason": trial.reason,
            }
            row |= {f"params.{k}": v for k, v in self.space.parameters(trial.genome).items()}
            if trial.evaluation is not None:
                row |= {f"values.{k}": v for k, v in trial.evaluation.values.items()}
                row |= {f"bounded.{k}": v for k, v in trial.evaluation.bounded.items()}
                row |= {f"metrics.{k}": v for k, v in trial.evaluation.metrics.items()}
                row |= {f"timings.{k}": v for k, v in trial.evaluation.timings.items()}
                row |= {f"reuse.{k}": v for k, v in trial.evaluation.reuse.items()}
            rows.append(row)
        return pd.DataFrame(rows)


def cache_bytes(cache_gib: float) -> int:
    """Converts `cache_gib` from GiB to bytes.

    Raises:
        InputError: The value is out of range.
    """
    if not 0 <= cache_gib < 2**20:
        raise InputError(f"`cache_gib` is {cache_gib}, expected 0 or more")
    return int(cache_gib * 2**30)
