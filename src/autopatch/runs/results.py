"""Evaluates the detectors of a run on its test set."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
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
from autopatch.runs.folder import TEST_RESULTS, read_json
from autopatch.runs.record import RunRecord
from autopatch.search import CandidateEvaluator, Objective
from autopatch.search.candidates import candidate_of
from autopatch.search.objectives import measure_objectives

logger = logging.getLogger(__name__)

_VERSION = 5
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
    """

    kind: str
    label: str
    trial: int | None
    values: Mapping[str, float]
    metrics: Mapping[str, float]
    milliseconds: float | None


@dataclass(frozen=True)
class TestResults:
    """The results of a run on its test set.

    Attributes:
        weights: Where the backbone's weights come from.
        fitted: Architecture of the fitted detector.
        data_digest: Digest of the data set.
        objectives: Objectives of the search; the last one is the quality.
        rows: The fitted detector, the PatchCore baseline if the backbone has one, then the front by
            increasing cost.
        types: For each anomaly type of the test set, what known defects are worth; empty if the
            fitted detector knows none.
        known: Digests of the images that the fitted detector knows.
    """

    __test__ = False  # not a pytest class

    weights: str
    fitted: Architecture
    data_digest: str
    objectives: tuple[Objective, ...]
    rows: tuple[DetectorResult, ...]
    types: tuple[TypeResult, ...] = ()
    known: tuple[str, ...] = ()

    def belongs_to(self, detector: Detector) -> bool:
        """Whether `detector` is the fitted detector that was measured."""
        return (self.fitted, self.data_digest, self.known) == (
            detector.architecture,
            detector.data_digest,
            _digests(detector),
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
                rows=tuple(DetectorResult(**row) for row in document["rows"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); run evaluate again") from error


def evaluate_run(
    run: RunRecord, detector: Detector, *, cache_bytes: int, progress: Progress | None = None
) -> TestResults:
    """Measures a fitted detector, the PatchCore baseline and every trial of the front.

    Everything runs on the device of the detector. No earlier step uses the test set.

    Args:
        run: The search.
        detector: A detector fitted on the images of the run.
        cache_bytes: Maximum size of the feature-map cache in bytes.
        progress: Called after every batch of images.

    Raises:
        InputError: The detector does not belong to the run, see `RunRecord.require_own`.
    """
    run.require_own(detector)
    rows = [_measured("fitted", run, detector, progress)]
    architecture = patchcore_architecture(run.supernet, images=len(run.split.fit))
    if architecture is not None:
        baseline = run.fit_architecture(architecture, device=detector.device, progress=progress)
        rows.append(_measured("patchcore", run, baseline, progress))
    evaluator = CandidateEvaluator(
        run.supernet,
        fit=run.split.fit,
        scored=run.split.test,
        objectives=run.objectives,
        latency_table=run.latency_table,
        shots=run.split.validation,
        held_out=run.split.calibration,
        cache_bytes=cache_bytes,
        reading=run.reading,
        device=detector.device,
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
        objectives=run.objectives,
        types=score_by_type(detector, run.split.test, run.reading, progress),
        known=_digests(detector),
        rows=tuple(rows),
    )


def _digests(detector: Detector) -> tuple[str, ...]:
    return tuple(image.digest for image in detector.known)


def _measured(
    kind: str, run: RunRecord, detector: Detector, progress: Progress | None
) -> DetectorResult:
    test = run.split.test
    paths = [sample.image for sample in test]
    maps = detector.predict(paths, progress=progress).anomaly_map
    images = load_images(paths[:_TIMED_IMAGES], detector.architecture.input.size, detector.reading)
    seconds = []
    for image in images.split(1):
        started = time.perf_counter()
        detector.predict(image).pred_score.tolist()  # waits for the device
        seconds.append(time.perf_counter() - started)
    masks = load_masks(test, detector.evaluation_size, run.reading)
    metrics = score_maps(maps, masks, [sample.type for sample in test])
    candidate = candidate_of(
        detector, run.supernet, test, metrics=metrics, latency_table=run.latency_table
    )
    label = detector.architecture.describe(run.supernet)
    values: dict[str, float] = {}
    for objective in run.objectives:
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
    )
