"""What `predict` and `report` write."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from autopatch.data import IMAGE_SUFFIXES, load_masks, read_image
from autopatch.detector import Detector
from autopatch.errors import InputError
from autopatch.progress import Progress
from autopatch.report import (
    Candidate,
    ColorScale,
    Failure,
    Report,
    draw_cases,
    overlay,
    write_report,
)
from autopatch.search.measurements import Measurements, patchcore_setting
from autopatch.search.run import DETECTOR, REPORT, Run, new_temporary_folder
from autopatch.search.study import WITHOUT_OUTCOME
from autopatch.supernet import Supernet

_IMAGES_AT_A_TIME = 64


def find_images(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Image files, and the names their results get, without suffix: those below a given folder keep
    their place in it.

    Raises:
        InputError: A path does not exist, there is no image, or two results would have one name.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in IMAGE_SUFFIXES
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
            if not inside:
                raise InputError(f"{path}: no image in this folder")
            pairs = [(p.relative_to(path).with_suffix(""), p) for p in inside]
        elif path.is_file():
            pairs = [(Path(path.stem), path)]
        else:
            raise InputError(f"{path}: no such file or folder")
        for name, file in pairs:
            if name in found:
                raise InputError(f"{file}: would overwrite the results of {found[name]}")
            found[name] = file
    return [(file, name) for name, file in found.items()]


def write_predictions(
    detector: Detector, images: Sequence[tuple[Path, Path]], out: Path, *, progress: Progress
) -> int:
    """Writes scores.csv, overlays/NAME.png and maps/NAME.npy; the folder appears complete.

    The colors are the same on every image: they start at the calibration images' median and turn
    hot at the threshold.

    Returns:
        Number of images called anomalous.
    """
    scale = color_scale(detector)
    threshold = detector.threshold.value
    features = detector.subnet.provenance
    anomalous = 0
    with new_folder(out) as folder, (folder / "scores.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "score", "threshold", "verdict", "features"])
        for first in range(0, len(images), _IMAGES_AT_A_TIME):
            batch = images[first : first + _IMAGES_AT_A_TIME]
            prediction = detector.predict([path for path, _ in batch])
            maps = prediction.maps.numpy(force=True)
            for i, (path, name) in enumerate(batch):
                anomaly_map = maps[i]
                picture = folder / "overlays" / name.with_name(name.name + ".png")
                raw = folder / "maps" / name.with_name(name.name + ".npy")
                picture.parent.mkdir(parents=True, exist_ok=True)
                raw.parent.mkdir(parents=True, exist_ok=True)
                overlay(read_image(path), anomaly_map, scale, threshold=threshold).save(picture)
                np.save(raw, anomaly_map)
                verdict = "anomalous" if prediction.anomalous[i] else "good"
                score = float(prediction.scores[i])
                table.writerow([str(path), f"{score:.9g}", f"{threshold:.9g}", verdict, features])
            anomalous += int(prediction.anomalous.sum())
            progress("predict", first + len(batch), len(images))
    return anomalous


def color_scale(detector: Detector) -> ColorScale:
    """The detector's colors, fixed by its calibration images."""
    return ColorScale.fit(np.array([detector.usual_distance]), detector.threshold.value)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill under another name, moved to `path` at the end, removed after an error."""
    unfinished = new_temporary_folder(path)
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_run_report(
    run: Run, supernet: Supernet, *, device: torch.device, progress: Progress
) -> Path:
    """Writes RUN/report: with the test figures if `evaluate` has run, with the threshold and
    pictures of cases if `fit` has.

    Returns:
        The page.
    """
    front = run.front
    fitted = (run.path / DETECTOR).is_file()
    detector = Detector.load(run.path / DETECTOR, device=device) if fitted else None
    measurements = Measurements.load(run)
    notes = []
    if measurements is None:
        notes.append(f"No test figures yet: autopatch evaluate {run.path}")
    elif detector is not None and not measurements.belongs_to(detector):
        measurements = None
        notes.append(
            "The test figures belong to another fit and are left out: "
            f"autopatch evaluate {run.path}"
        )
    elif {row.trial for row in measurements.front} != {trial.number for trial in front.trials}:
        measurements = None
        notes.append(
            "The search has grown since it was measured, so the test figures are left out: "
            f"autopatch evaluate {run.path}"
        )
    measured = measurements.rows if measurements is not None else ()
    on_front = {trial.number for trial in front.trials}
    tests = {row.trial: row.metrics for row in measured if row.kind == "front"}
    candidates = [
        Candidate(
            number=trial.number,
            label=supernet.describe(trial.architecture),
            cost=trial.evaluation.cost,
            backbone_flops=supernet.flops(trial.architecture),
            validation=trial.evaluation.metrics,
            on_front=trial.number in on_front,
            is_pick=trial.number == front.pick.number,
            test=tests.get(trial.number),
        )
        for trial in run.trials
        if trial.evaluation is not None
    ]
    patchcore = patchcore_setting(supernet, run.split)
    for row in measured:
        if row.kind == "patchcore" and patchcore is not None:
            candidates.append(
                Candidate(
                    number=None,
                    label=row.label,
                    cost=row.cost,
                    backbone_flops=supernet.flops(patchcore),
                    is_patchcore=True,
                    test=row.metrics,
                )
            )
    report = Report(
        dataset=run.source.data,
        space=f"{run.space.name}, {run.space.size():,} architectures",
        weights=supernet.provenance,
        random_features=supernet.random_features,
        split=run.split,
        seed=run.seed,
        evaluations=run.evaluations,
        cost=run.cost,
        optimizer=run.optimizer,
        candidates=candidates,
        failures=[
            Failure(t.number, supernet.describe(t.architecture), str(t.reason))
            for t in run.trials
            if t.evaluation is None and t.reason not in WITHOUT_OUTCOME
        ],
        notes=notes,
    )
    if detector is not None:
        report = _with_cases(run, supernet, detector, report, progress)
    else:
        notes.append(f"No fitted detector yet, so no pictures: autopatch fit {run.path}")
    return write_report(run.path / REPORT, report)


def _with_cases(
    run: Run, supernet: Supernet, detector: Detector, report: Report, progress: Progress
) -> Report:
    test = run.split.test
    prediction = detector.predict([sample.path for sample in test], progress=progress)
    cases = draw_cases(
        test,
        prediction.maps.numpy(force=True),
        load_masks(test, detector.evaluation_size).numpy(),
        prediction.scores.tolist(),
        color_scale(detector),
        threshold=detector.threshold.value,
        warning="RANDOM features" if supernet.random_features else "",
    )
    return replace(
        report,
        threshold=detector.threshold.describe(),
        fitted=supernet.describe(detector.architecture),
        cases=cases,
    )
