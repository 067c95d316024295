"""A run on its test part: the fitted detector, PatchCore's setting, and the front."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autopatch.data import Split, load_images, load_masks
from autopatch.detector import MAX_CORESET_SAMPLE, Detector, images_digest, score_maps
from autopatch.errors import InputError
from autopatch.progress import Progress
from autopatch.search.candidates import CandidateEvaluator, architecture_cost
from autopatch.search.run import Run, write_json
from autopatch.supernet import Architecture, SearchSpace, Supernet

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Measured:
    """A detector on the test part.

    Attributes:
        kind: "fitted", "patchcore" or "front".
        label: Its architecture in words.
        trial: Number of the trial of the front, None for the others.
        cost: FLOPs an image, those of the search.
        metrics: By name.
        milliseconds: Median time of one decoded image, None where it was not taken.
    """

    kind: str
    label: str
    trial: int | None
    cost: int
    metrics: Mapping[str, float]
    milliseconds: float | None


@dataclass(frozen=True)
class Measurements:
    """All that was measured of a run.

    Attributes:
        features: Where the weights come from.
        fitted: Architecture of the fitted detector.
        fitted_on: `images_digest` of its images.
        rows: The fitted detector, the PatchCore setting if the backbone has one, then the front by
            ascending cost.
    """

    features: str
    fitted: Architecture
    fitted_on: str
    rows: tuple[Measured, ...]

    def belongs_to(self, detector: Detector) -> bool:
        """Whether the fitted detector measured is this one, and not one fitted later."""
        return (self.fitted, self.fitted_on) == (detector.architecture, detector.fitted_on)

    @property
    def front(self) -> list[Measured]:
        """The rows of the front."""
        return [row for row in self.rows if row.kind == "front"]

    @property
    def best_of_front(self) -> Measured:
        """The row of the front of highest test rwAP: not attainable, chosen with test labels."""
        return max(self.front, key=lambda row: row.metrics["rwAP"])

    def save(self, run: Run) -> Path:
        """Writes evaluation.json into the run folder.

        Raises:
            InputError: It cannot be written.
        """
        document: dict[str, Any] = asdict(self) | {"fitted": self.fitted.to_json()}
        return write_json(run.path / EVALUATION, document)

    @classmethod
    def load(cls, run: Run) -> Measurements | None:
        """What `save` wrote, None if nothing has been.

        Raises:
            InputError: The file is damaged.
        """
        path = run.path / EVALUATION
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_text())
            return cls(
                features=document["features"],
                fitted=Architecture.from_json(document["fitted"]),
                fitted_on=document["fitted_on"],
                rows=tuple(Measured(**row) for row in document["rows"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); run evaluate again") from error


def baselines(space: SearchSpace, supernet: Supernet, split: Split) -> tuple[Architecture, ...]:
    """What a search evaluates first: the PatchCore setting with the nearest bank size of the space,
    so that the pick is never worse than that on the validation part; nothing if the space lacks it.
    """
    setting = patchcore_setting(supernet, split)
    if setting is None:
        return ()
    sizes = space.choices("bank_size")
    if not sizes or setting.bank_size is None:
        return ()
    wanted = setting.bank_size
    nearest = replace(setting, bank_size=min(sizes, key=lambda size: abs(size - wanted)))
    try:
        space.encode(nearest)
    except InputError:
        return ()
    return (nearest,)


def patchcore_setting(supernet: Supernet, split: Split) -> Architecture | None:
    """The PatchCore setting of a backbone: levels of stride 8 and 16, patch size 3, a coreset of
    10 % of the patches of the fit images; None if the backbone lacks such levels."""
    architecture = supernet.patchcore(bank_size=None)
    if architecture is None:
        return None
    positions = math.prod(supernet.grid(architecture))
    patches = len(split.fit) * positions
    bank_size = min(max(round(patches / 10), 1), MAX_CORESET_SAMPLE)
    return replace(architecture, bank_size=bank_size)


def fit_detector(
    run: Run,
    supernet: Supernet,
    architecture: Architecture,
    *,
    false_alarm_rate: float = 0.05,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Detector:
    """Fits an architecture on the run's good images and calibrates it on those kept for that."""
    return Detector.fit(
        supernet,
        architecture,
        [sample.path for sample in run.split.fit],
        calibration=[sample.path for sample in run.split.calibration],
        false_alarm_rate=false_alarm_rate,
        seed=run.seed,
        device=device,
        progress=progress,
    )


def measure(
    run: Run, detector: Detector, *, cache_bytes: int, progress: Progress | None = None
) -> Measurements:
    """Measures a fitted detector, the PatchCore setting, and every trial of the front, all on the
    detector's device.

    The test part is used for nothing before this. The best of the front by test rwAP is not a
    result one can have: it is chosen with the test labels, and shows what choosing costs.

    Args:
        run: The search.
        detector: Fitted on the images of its split.
        cache_bytes: Memory for feature maps that are kept.
        progress: Told of every batch of images.

    Raises:
        InputError: The detector was fitted on other images than the run's, or has other weights.
    """
    split = run.split
    fitted_on = images_digest([sample.path for sample in (*split.fit, *split.calibration)])
    if detector.fitted_on != fitted_on:
        raise InputError(
            f"the detector was fitted on other images than those {run.path} keeps for that, and "
            "may know its test part"
        )
    supernet = run.load_supernet()
    if detector.subnet.provenance != supernet.provenance:
        raise InputError(
            f"the detector has {detector.subnet.provenance}, the run {supernet.provenance}"
        )
    rows = [_measured("fitted", run, supernet, detector, progress)]
    architecture = patchcore_setting(supernet, split)
    if architecture is not None:
        baseline = fit_detector(
            run, supernet, architecture, device=detector.device, progress=progress
        )
        rows.append(_measured("patchcore", run, supernet, baseline, progress))
    evaluator = CandidateEvaluator(
        supernet,
        fit=split.fit,
        scored=split.test,
        cost=run.cost,
        seed=run.seed,
        cache_bytes=cache_bytes,
        device=detector.device,
    )
    trials = run.front.trials
    for done, trial in enumerate(trials):
        if progress is not None:
            progress("front on the test part", done, len(trials))
        evaluation = evaluator(trial.architecture)
        rows.append(
            Measured(
                kind="front",
                label=supernet.describe(trial.architecture),
                trial=trial.number,
                cost=evaluation.cost,
                metrics=evaluation.metrics,
                milliseconds=None,
            )
        )
    if progress is not None:
        progress("front on the test part", len(trials), len(trials))
    return Measurements(
        features=detector.subnet.provenance,
        fitted=detector.architecture,
        fitted_on=fitted_on,
        rows=tuple(rows),
    )


_TIMED_IMAGES = 20


def _measured(
    kind: str, run: Run, supernet: Supernet, detector: Detector, progress: Progress | None
) -> Measured:
    test = run.split.test
    paths = [sample.path for sample in test]
    maps = detector.predict(paths, progress=progress).maps
    images = load_images(paths[:_TIMED_IMAGES], detector.architecture.image_size)
    seconds = []
    for image in images.split(1):
        started = time.perf_counter()
        detector.predict(image).scores.tolist()  # which waits for the device
        seconds.append(time.perf_counter() - started)
    masks = load_masks(test, detector.evaluation_size)
    return Measured(
        kind=kind,
        label=supernet.describe(detector.architecture),
        trial=None,
        cost=architecture_cost(
            supernet, detector.architecture, len(detector.memory.bank), run.cost
        ),
        metrics=score_maps(maps, masks, [sample.type for sample in test]),
        milliseconds=1e3 * statistics.median(seconds),
    )
