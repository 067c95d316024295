"""Evaluates the detectors of a run on its test set."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autopatch.data import load_images, load_masks
from autopatch.detector import (
    Architecture,
    Detector,
    TypeResult,
    patchcore_architecture,
    score_by_type,
    score_maps,
)
from autopatch.errors import InputError
from autopatch.files import StrPath, write_json
from autopatch.progress import Progress
from autopatch.report import as_tested
from autopatch.runs.folder import TEST_RESULTS, read_json
from autopatch.runs.record import RunRecord
from autopatch.runs.testing import TestSet
from autopatch.runs.verdicts import Verdicts
from autopatch.search import CandidateEvaluator, Objective
from autopatch.search.candidates import candidate_of
from autopatch.search.objectives import measure_objectives

logger = logging.getLogger(__name__)

_VERSION = 6
_TIMED_IMAGES = 20


@dataclass(frozen=True)
class DetectorResult:
    """The results of a detector on the test set.

    Attributes:
        kind: "fitted", "patchcore" or "front".
        label: Its architecture in words.
        trial: Number of the trial for kind "front"; None for the other kinds.
        values: Values of the objectives on the test set, by name; without the latency if the table
            of the search does not cover the architecture.
        metrics: Metrics on the test set, by name.
        milliseconds: Median prediction time for one decoded image; None if not measured.
        verdicts: Its mistakes at its threshold; None for kind "front", which has no threshold.
    """

    kind: str
    label: str
    trial: int | None
    values: Mapping[str, float]
    metrics: Mapping[str, float]
    milliseconds: float | None
    verdicts: Verdicts | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DetectorResult:
        """Reads what `dataclasses.asdict` made.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        verdicts = value["verdicts"]
        return cls(
            **{**value, "verdicts": None if verdicts is None else Verdicts.from_json(verdicts)}
        )


@dataclass(frozen=True)
class TestResults:
    """The results of a run on its test set.

    The fitted detector and the PatchCore baseline are fitted on all good images of the run. The
    front is fitted on those that the search fitted it on, so its rows show what the search knew.

    Attributes:
        weights: Where the backbone's weights come from.
        fitted: Architecture of the fitted detector.
        data_digest: Digest of the data set.
        objectives: Objectives of the search as the test set measures them, see `as_tested`; the
            last one is the quality.
        rows: The fitted detector, the PatchCore baseline if the backbone has one, then the front by
            increasing cost.
        types: For each anomaly type of the test set, what known defects are worth; empty if the
            fitted detector knows none.
        known: Digests of the images that the fitted detector knows.
        synthetic: Whether the anomalies of the test set are drawn, because the data set has none.
    """

    __test__ = False  # not a pytest class

    weights: str
    fitted: Architecture
    data_digest: str
    objectives: tuple[Objective, ...]
    rows: tuple[DetectorResult, ...]
    types: tuple[TypeResult, ...] = ()
    known: tuple[str, ...] = ()
    synthetic: bool = False

    def belongs_to(self, detector: Detector) -> bool:
        """Whether `detector` is the fitted detector that was measured, with the same threshold."""
        verdicts = [row.verdicts for row in self.rows if row.kind == "fitted"]
        thresholds = [each.threshold for each in verdicts if each is not None]
        return (self.fitted, self.data_digest, self.known, thresholds) == (
            detector.architecture,
            detector.data_digest,
            _digests(detector),
            [detector.threshold],
        )

    @property
    def front(self) -> list[DetectorResult]:
        """The rows of the front."""
        return [row for row in self.rows if row.kind == "front"]

    @property
    def best_of_front(self) -> DetectorResult:
        """The row of the front with the best quality on the test set.

        No search can choose it: the choice needs the labels of the test set.
        """
        quality = self.objectives[-1]
        choose = max if quality.is_maximized else min
        return choose(self.front, key=lambda row: row.values[quality.name])

    def save(self, run: StrPath) -> Path:
        """Writes evaluation.json into a run folder.

        Raises:
            InputError: It cannot be written.
        """
        document: dict[str, Any] = {
            "version": _VERSION,
            "weights": self.weights,
            "fitted": self.fitted.to_json(),
            "data_digest": self.data_digest,
            "objectives": [objective.to_json() for objective in self.objectives],
            "types": [asdict(row) for row in self.types],
            "known": list(self.known),
            "synthetic": self.synthetic,
            "rows": [asdict(row) for row in self.rows],
        }
        return write_json(Path(run, TEST_RESULTS), document)

    @classmethod
    def load(cls, run: StrPath) -> TestResults | None:
        """Reads evaluation.json from a run folder; None if there is none.

        Raises:
            InputError: The file is damaged, or was written by another version.
        """
        path = Path(run, TEST_RESULTS)
        if not path.is_file():
            return None
        document = read_json(path)
        if document.get("version") != _VERSION:
            raise InputError(f"{path}: written by another version of autopatch; run evaluate again")
        try:
            return cls(
                weights=document["weights"],
                fitted=Architecture.from_json(document["fitted"]),
                data_digest=document["data_digest"],
                objectives=tuple(map(Objective.from_json, document["objectives"])),
                types=tuple(TypeResult(**row) for row in document["types"]),
                known=tuple(map(str, document["known"])),
                synthetic=bool(document["synthetic"]),
                rows=tuple(DetectorResult.from_json(row) for row in document["rows"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); run evaluate again") from error


def evaluate_run(
    run: RunRecord, detector: Detector, *, cache_bytes: int, progress: Progress | None = None
) -> TestResults:
    """Measures a fitted detector, the PatchCore baseline and every trial of the front.

    Everything runs on the device of the detector. No earlier step uses the test set. The fitted
    detector and the baseline are fitted on all good images of the run, the trials of the front on
    the images of the role fit, as in the search. If the data set has no anomalous images, synthetic
    anomalies on good test images take their place, see `TestSet`.

    Args:
        run: The search.
        detector: A detector fitted on the images of the run.
        cache_bytes: Maximum size of the feature-map cache in bytes.
        progress: Called after every batch of images.

    Raises:
        InputError: The detector does not belong to the run, see `RunRecord.require_own`.
    """
    run.require_own(detector)
    split, tested = run.split, TestSet.of(run, progress)
    objectives = tuple(dict.fromkeys(map(as_tested, run.objectives)))
    rows = [_measured("fitted", run, detector, tested, objectives, progress)]
    architecture = patchcore_architecture(run.supernet, images=len(run.good))
    if architecture is not None:
        baseline = run.fit_architecture(
            architecture,
            false_alarm_rate=detector.threshold.target_rate,
            device=detector.device,
            progress=progress,
        )
        rows.append(_measured("patchcore", run, baseline, tested, objectives, progress))
    evaluator = CandidateEvaluator(
        run.supernet,
        fit=split.fit,
        scored=tested.samples,
        objectives=objectives,
        latency_table=run.latency_table,
        shots=split.validation,
        held_out=split.calibration or split.holdout,
        cache_bytes=cache_bytes,
        reading=run.reading,
        device=detector.device,
        intervals=False,
    )
    trials = run.front.trials
    for done, trial in enumerate(trials):
        if progress is not None:
            progress("front on the test set", done, len(trials))
        evaluation = evaluator(trial.architecture)
        rows.append(
            DetectorResult(
                kind="front",
                label=trial.architecture.describe(run.supernet),
                trial=trial.number,
                values=evaluation.values,
                metrics=evaluation.metrics,
                milliseconds=None,
            )
        )
    if progress is not None:
        progress("front on the test set", len(trials), len(trials))
    return TestResults(
        weights=detector.provenance,
        fitted=detector.architecture,
        data_digest=run.data_digest,
        objectives=objectives,
        types=score_by_type(detector, tested.samples, run.reading, progress),
        known=_digests(detector),
        synthetic=tested.synthetic,
        rows=tuple(rows),
    )


def _digests(detector: Detector) -> tuple[str, ...]:
    return tuple(image.digest for image in detector.known)


def _measured(
    kind: str,
    run: RunRecord,
    detector: Detector,
    tested: TestSet,
    objectives: Sequence[Objective],
    progress: Progress | None,
) -> DetectorResult:
    test = tested.samples
    paths = [sample.image for sample in test]
    prediction = detector.predict(paths, progress=progress)
    images = load_images(paths[:_TIMED_IMAGES], detector.architecture.input.size, detector.reading)
    seconds = []
    for image in images.split(1):
        started = time.perf_counter()
        detector.predict(image).pred_score.tolist()  # waits for the device
        seconds.append(time.perf_counter() - started)
    masks = load_masks(test, detector.evaluation_size, run.reading)
    metrics = score_maps(prediction.anomaly_map, masks, [sample.type for sample in test])
    candidate = candidate_of(
        detector, run.supernet, test, metrics=metrics, latency_table=run.latency_table
    )
    label = detector.architecture.describe(run.supernet)
    values: dict[str, float] = {}
    for objective in objectives:
        try:
            values |= measure_objectives([objective], candidate)
        except InputError as error:  # the latency table does not cover it
            logger.warning("%s: no %s: %s", label, objective.short_name, error)
    return DetectorResult(
        kind=kind,
        label=label,
        trial=None,
        values=values,
        metrics=metrics,
        milliseconds=1e3 * statistics.median(seconds),
        verdicts=Verdicts.of(
            detector.threshold,
            test,
            prediction.pred_label.tolist(),
            synthetic=tested.synthetic,
        ),
    )
