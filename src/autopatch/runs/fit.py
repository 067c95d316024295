"""Fits a detector on good images alone, without a search."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autopatch.data import GOOD, MVTecAD, Reading, Sample, defect_samples, folder_of_good
from autopatch.detector import Architecture, Detector, Head, patchcore_architecture
from autopatch.errors import InputError
from autopatch.files import StrPath, path_kind, require_writable_file
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.runs.folder import read_json
from autopatch.runs.source import SupernetSource
from autopatch.supernet import DEFAULT_SPACE, Supernet

logger = logging.getLogger(__name__)


def fit_images(
    images: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    space: str = DEFAULT_SPACE,
    weights: StrPath = "auto",
    architecture: Architecture | StrPath | None = None,
    bank_size: int | None = None,
    defects: StrPath | None = None,
    false_alarm_rate: float = 0.05,
    group_regex: str | None = None,
    groups: StrPath | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    space_options: Mapping[str, Any] | None = None,
    bit_depth: int | None = None,
    exif: str = "apply",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Detector:
    """Fits a detector on good images and saves it. Known defects may be added; none are needed.

    All images are in the memory bank, and folds of them set the threshold. `Detector.fit` does the
    same and also accepts images in memory.

    Args:
        images: Folder of good images, or image files.
        out: File to write.
        space: Search space of the backbone, see `run_search`.
        weights: See `load_supernet`.
        architecture: An architecture of the space, or a JSON file that holds one; PatchCore's usual
            setting if None.
        bank_size: Number of patches in the memory bank; 10 % of all, as in PatchCore, if None.
        defects: Folder with images of known defects and their masks, see `defect_samples`.
        false_alarm_rate: Share of good images that may be called anomalous.
        group_regex: Regular expression for file names, for a folder of images. Images with the same
            first match group stay together in the folds.
        groups: CSV file with the columns file,group, for a folder of images. Images of a group stay
            together in the folds.
        seed: Seed of the folds, and of random weights.
        mean: Channel means of the input; needed if the weights file has none.
        std: Channel standard deviations; needed if the weights file has none.
        space_options: Options of the space's family by name, see `load_supernet`.
        bit_depth: See `run_search`.
        exif: See `run_search`.
        device: "cpu", "cuda" or "cuda:<number>".
        progress: Called after every batch of images, and during a download.

    Raises:
        InputError: The images are missing, unreadable or too few, `out` exists or cannot be
            written, the weights cannot be loaded, or an argument is wrong.
    """
    where = usable_device(device)
    reading = Reading(bit_depth=bit_depth, exif=exif)
    require_new_file(out)
    if architecture is not None and bank_size is not None:
        raise InputError("`architecture` has a bank size, expected no `bank_size` beside it")
    known = [] if defects is None else defect_samples(defects)
    of_images = None
    if group_regex is not None or groups is not None:
        images, of_images = _grouped(images, group_regex, groups)
    source = SupernetSource.find(space, weights, mean=mean, std=std, options=space_options)
    supernet = source.load(seed=seed, progress=progress)
    detector = Detector.fit(
        images,
        supernet=supernet,
        architecture=_chosen(supernet, architecture, bank_size),
        groups=of_images,
        defects=known,
        false_alarm_rate=false_alarm_rate,
        seed=seed,
        reading=reading,
        device=where,
        progress=progress,
    )
    logger.info(detector.architecture.describe(supernet))
    if known:
        logger.info(detector.describe_known())
    detector.save(out)
    return detector


def _grouped(
    images: StrPath | Iterable[StrPath], regex: str | None, table: StrPath | None
) -> tuple[list[Path], list[str | None]]:
    """The images of a folder, and the group of each."""
    if not isinstance(images, str | os.PathLike):
        raise InputError(
            "`groups` or `group_regex` is given, so `images` must be a folder; `Detector.fit` "
            "takes files and their groups"
        )
    if path_kind(images) != "folder":
        raise InputError(f"{images}: no such folder, expected one of good images")
    listed = tuple(Sample(image, GOOD) for image in folder_of_good(images))
    found = MVTecAD(Path(images), listed, ()).grouped(group_regex=regex, groups_csv=table)
    good = found.train
    return [sample.image for sample in good], [sample.group for sample in good]


def _chosen(
    supernet: Supernet, architecture: Architecture | StrPath | None, bank_size: int | None
) -> Architecture | None:
    if architecture is not None:
        return read_architecture(architecture)
    if bank_size is None:
        return None
    Head.check("bank_size", bank_size)
    setting = patchcore_setting(supernet, images=1)
    return replace(setting, head=replace(setting.head, bank_size=bank_size))


def patchcore_setting(supernet: Supernet, *, images: int) -> Architecture:
    """The PatchCore baseline, see `patchcore_architecture`.

    Raises:
        InputError: The supernet has none.
    """
    setting = patchcore_architecture(supernet, images=images)
    if setting is None:
        raise InputError(
            f"{supernet.name} has no levels of stride 8 and 16, so the PatchCore baseline does "
            "not exist; give an `architecture`"
        )
    return setting


def read_architecture(architecture: Architecture | StrPath) -> Architecture:
    """Reads an architecture from a JSON file; returns an `Architecture` unchanged.

    Raises:
        InputError: The file cannot be read or holds no architecture.
    """
    if isinstance(architecture, Architecture):
        return architecture
    path = Path(architecture)
    document = read_json(path)
    try:
        return Architecture.from_json(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def require_new_file(out: StrPath) -> None:
    """Raises InputError if a detector file already exists or cannot be written."""
    if Path(out).exists():
        raise InputError(f"{out}: exists; remove it or give another `out`")
    require_writable_file(out)
