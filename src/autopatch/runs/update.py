"""Adds known images to a saved detector, and removes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import torch

from autopatch.data import defect_samples
from autopatch.detector import Detector
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.progress import Progress
from autopatch.runs.fit import require_new_file

logger = logging.getLogger(__name__)


def update_detector(
    detector: StrPath,
    out: StrPath,
    *,
    defects: StrPath | None = None,
    good: StrPath | Iterable[StrPath] = (),
    remove: Iterable[str] = (),
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Detector:
    """Adds known images to a detector, removes them, and saves the result. See `Detector.update`.

    No images of the fit are needed: the threshold is set anew on the calibration images that the
    detector holds.

    Args:
        detector: File of the detector.
        out: File to write.
        defects: Folder with images of defects and their masks, see `defect_samples`.
        good: Good images: files, or folders.
        remove: Names of known images to remove.
        device: "cpu", "cuda" or "cuda:<number>".
        progress: Called after every batch of images.

    Raises:
        InputError: Nothing is added or removed, a file is missing or unreadable, `out` exists or
            cannot be written, or see `Detector.update`.
    """
    require_new_file(out)
    updated = Detector.load(detector, device=device)
    removed = [remove] if isinstance(remove, str) else list(remove)
    images = [good] if isinstance(good, str | os.PathLike) else list(good)
    samples = [] if defects is None else defect_samples(defects)
    if not (samples or images or removed):
        names = ", ".join(image.name for image in updated.known) or "none"
        raise InputError(
            f"{detector}: nothing to change, expected `defects`, `good` or `remove`; known images: "
            f"{names}"
        )
    updated.update(defects=samples, good=images, remove=removed, progress=progress)
    logger.info(updated.describe_known())
    updated.save(out)
    return updated
