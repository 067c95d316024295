"""Predictions of images, written to a folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autopatch.data import named_images, read_image
from autopatch.detector import Detector
from autopatch.errors import InputError
from autopatch.files import StrPath, new_folder, require_writable_folder
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.report import ColorScale, overlay

_IMAGES_AT_A_TIME = 64


@dataclass(frozen=True)
class WrittenPredictions:
    """What was written.

    Attributes:
        folder: Where.
        images: Number of images.
        anomalous: Number of images called anomalous.
        threshold: What the threshold is and what it promises.
        features: Where the backbone's weights come from.
    """

    folder: Path
    images: int
    anomalous: int
    threshold: str
    features: str


def write_predictions(
    detector: Detector | StrPath,
    images: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> WrittenPredictions:
    """Writes scores.csv, overlays/NAME.png and maps/NAME.npy; the folder appears complete.

    The colors are the same on every image: they start at the calibration images' median and turn
    hot at the threshold.

    Args:
        detector: A detector, or its file.
        images: Image files or folders of them, one or many.
        out: Folder to make.
        device: Where a detector that is a file runs: "cpu", "cuda" or "cuda:<number>".
        progress: Told of every batch of images.

    Raises:
        InputError: The folder exists or cannot be written, or the detector or an image cannot be
            read.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists, expected a new folder for the results")
    require_writable_folder(out)
    if not isinstance(detector, Detector):
        detector = Detector.load(detector, device=usable_device(device))
    if isinstance(images, str | os.PathLike):
        images = [images]
    found = list(named_images([Path(image) for image in images]).items())
    scale = color_scale(detector)
    threshold = detector.threshold.value
    anomalous = 0
    with new_folder(out) as folder, (folder / "scores.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "score", "threshold", "verdict", "features"])
        for first in range(0, len(found), _IMAGES_AT_A_TIME):
            batch = found[first : first + _IMAGES_AT_A_TIME]
            prediction = detector.predict([path for _, path in batch])
            for (name, path), predicted in zip(batch, prediction, strict=True):
                anomaly_map = predicted.anomaly_map.numpy(force=True)
                picture = folder / "overlays" / name.with_name(name.name + ".png")
                raw = folder / "maps" / name.with_name(name.name + ".npy")
                picture.parent.mkdir(parents=True, exist_ok=True)
                raw.parent.mkdir(parents=True, exist_ok=True)
                overlay(read_image(path), anomaly_map, scale, threshold=threshold).save(picture)
                np.save(raw, anomaly_map)
                verdict = "anomalous" if predicted.pred_label else "good"
                score = f"{predicted.pred_score:.9g}"
                table.writerow([str(path), score, f"{threshold:.9g}", verdict, detector.provenance])
                anomalous += predicted.pred_label
            if progress is not None:
                progress("predict", first + len(batch), len(found))
    return WrittenPredictions(
        out, len(found), anomalous, detector.threshold.describe(), detector.provenance
    )


def color_scale(detector: Detector) -> ColorScale:
    """The detector's colors, fixed by its calibration images."""
    return ColorScale.fit(np.array([detector.usual_distance]), detector.threshold.value)
