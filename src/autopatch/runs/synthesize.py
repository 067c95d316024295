"""Draws synthetic anomalies on the good images of a data set."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autopatch.data import DEFAULT_READING, Anomaly, Dataset, Reading, Sample, decide
from autopatch.data import draw_anomalies as draw
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.progress import Progress
from autopatch.report import write_contact_sheet
from autopatch.runs.source import SplitRequest, open_dataset

logger = logging.getLogger(__name__)

CONTACT_SHEET = "contact_sheet.png"
"""Name of the picture of all kinds in the folder that `synthesize` makes."""


def synthesize(
    data: StrPath | Dataset,
    out: StrPath,
    *,
    kinds: Sequence[str] | None = None,
    per_kind: int = 10,
    seed: int = 0,
    shots: int = 0,
    reading: Reading = DEFAULT_READING,
    progress: Progress | None = None,
) -> tuple[Anomaly, ...]:
    """Draws synthetic anomalies on the good training images of a data set, see `draw_anomalies`.

    Args:
        data: Folder in the MVTec-AD layout, folder of good images, or a data set.
        out: Folder to make. It gets images, masks, their record, and a contact sheet.
        kinds: Kinds of anomalies; if None, all, but transplants only if there are shots.
        per_kind: Number of images of each kind.
        seed: Seed of all random choices.
        shots: Number of real anomalous images of each anomaly type that are transplanted, chosen
            at random.
        reading: How to read the files. If it has no bit depth, the smallest depth that holds the
            values of the good images is used.
        progress: Called after every image.

    Raises:
        InputError: The data set has another layout, a type has fewer images than `shots`, or see
            `draw_anomalies`.
    """
    dataset = open_dataset(data, SplitRequest())
    chosen = _shots(dataset, shots, seed)
    reading, warnings = decide(reading, [sample.image for sample in dataset.train])
    for warning in warnings:
        logger.warning(warning)
    anomalies = draw(
        dataset.train,
        out,
        shots=chosen,
        kinds=kinds,
        per_kind=per_kind,
        seed=seed,
        reading=reading,
        root=dataset.root,
        progress=progress,
    )
    try:
        write_contact_sheet(anomalies, Path(out) / CONTACT_SHEET, reading=reading)
    except BaseException:  # everything can be drawn again
        shutil.rmtree(out, ignore_errors=True)
        raise
    return anomalies


def _shots(dataset: Dataset, count: int, seed: int) -> list[Sample]:
    """The real anomalous images, one of each type in turn."""
    if count < 0:
        raise InputError(f"`shots` is {count}, expected at least 0")
    if count and not dataset.types:
        raise InputError(f"`shots` is {count}, but {dataset.root} has no anomalous images")
    rng = np.random.default_rng((max(seed, 0), 1))
    rounds: list[list[Sample]] = [[] for _ in range(count)]
    for kind in dataset.types:
        samples = [sample for sample in dataset.test if sample.type == kind]
        if len(samples) < count:
            raise InputError(
                f"the type {kind!r} has {len(samples)} images, expected at least `shots`, {count}"
            )
        for members, index in zip(rounds, rng.permutation(len(samples)), strict=False):
            members.append(samples[index])
    return [sample for members in rounds for sample in members]
