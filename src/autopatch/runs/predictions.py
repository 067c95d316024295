"""Writes the predictions for images to a folder."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from PIL import Image

from autopatch.data import Remarks, named_images, read_image
from autopatch.detector import Detector, ImagePrediction
from autopatch.errors import InputError
from autopatch.files import StrPath, new_folder, require_writable_folder
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.report import ColorScale, anomalous_region, overlay

logger = logging.getLogger(__name__)

SCORES = "scores.csv"
_COLUMNS = ("image", "score", "threshold", "verdict", "weights", "reason")
_IMAGES_AT_A_TIME = 64


@dataclass(frozen=True)
class UnreadableImage:
    """An image without a result.

    Attributes:
        path: The file.
        reason: Why it could not be read, in one line without the path.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class WrittenPredictions:
    """The results of `write_predictions`.

    Attributes:
        folder: The folder.
        images: Number of images with a result.
        anomalous: Number of images called anomalous.
        unreadable: Images without a result, in the order of the table.
        threshold: The threshold and its expected false-alarm rate, in words.
        weights: Where the backbone's weights come from.
    """

    folder: Path
    images: int
    anomalous: int
    unreadable: tuple[UnreadableImage, ...]
    threshold: str
    weights: str


def write_predictions(
    detector: Detector | StrPath,
    images: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> WrittenPredictions:
    """Writes scores.csv and, for each image, overlays/NAME.png, masks/NAME.png and maps/NAME.npy.

    An overlay shows the anomaly map over the image. All overlays share one color scale, which
    starts at the median score of the calibration maps and changes from blue to yellow at the
    threshold. A mask has the size of its image, 255 where the score is above the threshold and 0
    elsewhere. A map holds the raw scores, float32 `[S, S]`.

    NAME is the path of the image without its suffix, relative to the deepest folder that holds all
    of `images`; see `autopatch.data.named_images`.

    Images that cannot be read do not stop the others: their rows in the table have the verdict
    "unreadable" and the reason. The folder appears complete or not at all.

    Args:
        detector: A detector, or its file.
        images: One or several image files or folders of images.
        out: Folder to create.
        device: Device of a detector loaded from a file: "cpu", "cuda" or "cuda:<number>".
        progress: Called after every batch of images.

    Raises:
        InputError: The folder exists or cannot be written, the detector cannot be read, or there
            is no image.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists, expected a new folder for the results")
    require_writable_folder(out)
    if not isinstance(detector, Detector):
        detector = Detector.load(detector, device=usable_device(device))
    paths = [images] if isinstance(images, str | os.PathLike) else images
    found = list(named_images([Path(path) for path in paths]).items())
    scale = color_scale(detector)
    threshold = detector.threshold.value
    anomalous = 0
    unreadable: list[UnreadableImage] = []
    remarks = Remarks()
    with new_folder(out) as folder, _open_table(folder / SCORES) as file:
        table = csv.DictWriter(file, _COLUMNS)
        table.writeheader()
        for first in range(0, len(found), _IMAGES_AT_A_TIME):
            batch = found[first : first + _IMAGES_AT_A_TIME]
            outcomes = _outcomes(detector, [path for _, path in batch], remarks)
            for (name, path), outcome in zip(batch, outcomes, strict=True):
                row = {
                    "image": str(path),
                    "threshold": f"{threshold:.9g}",
                    "weights": detector.provenance,
                }
                try:
                    if isinstance(outcome, InputError):
                        raise outcome
                    image = read_image(path, detector.reading)
                    _write_pictures(folder, name, image, outcome, scale, threshold)
                except InputError as error:
                    reason = str(error).removeprefix(f"{path}: ")
                    unreadable.append(UnreadableImage(path, reason))
                    row |= {"verdict": "unreadable", "reason": reason}
                else:
                    row["score"] = f"{outcome.pred_score:.9g}"
                    row["verdict"] = "anomalous" if outcome.pred_label else "good"
                    anomalous += outcome.pred_label
                table.writerow(row)
            if progress is not None:
                progress("predict", first + len(batch), len(found))
    for line in remarks.lines():
        logger.warning(line)
    return WrittenPredictions(
        folder=out,
        images=len(found) - len(unreadable),
        anomalous=anomalous,
        unreadable=tuple(unreadable),
        threshold=detector.threshold.describe(),
        weights=detector.provenance,
    )


def _outcomes(
    detector: Detector, paths: Sequence[Path], remarks: Remarks
) -> list[ImagePrediction | InputError]:
    """The prediction for each image, or the error if it cannot be read.

    The detector rejects a whole batch at the first unreadable image. Splitting such batches in half
    finds every unreadable image.
    """
    try:
        return list(detector.predict(paths, remarks=remarks))
    except InputError as error:
        if len(paths) == 1:
            return [error]
    half = len(paths) // 2
    return [
        *_outcomes(detector, paths[:half], remarks),
        *_outcomes(detector, paths[half:], remarks),
    ]


def _open_table(path: Path) -> TextIO:
    # A file name may hold bytes that are not UTF-8; the table shows them as "\\udcff".
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _write_pictures(
    folder: Path,
    name: Path,
    image: Image.Image,
    prediction: ImagePrediction,
    scale: ColorScale,
    threshold: float,
) -> None:
    scores = prediction.anomaly_map.numpy(force=True)
    region = anomalous_region(scores, threshold, image.size)
    mask = Image.fromarray(region.astype(np.uint8) * np.uint8(255))
    overlay(image, scores, scale, threshold=threshold).save(_file(folder, "overlays", name, ".png"))
    mask.save(_file(folder, "masks", name, ".png"))
    np.save(_file(folder, "maps", name, ".npy"), scores)


def _file(folder: Path, kind: str, name: Path, suffix: str) -> Path:
    file = folder / kind / name.with_name(name.name + suffix)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def color_scale(detector: Detector) -> ColorScale:
    """The color scale of a detector, set by its calibration images."""
    return ColorScale.fit(np.array([detector.usual_score]), detector.threshold.value)
