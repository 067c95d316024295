"""Measures latency tables, on this machine for this or another one's searches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopatch.data import Reading, decide, folder_images
from autopatch.detector import Head
from autopatch.errors import InputError
from autopatch.files import StrPath, path_kind, require_writable_file
from autopatch.genes import Choice
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.runs.source import SupernetSource
from autopatch.search import LatencyTable, SearchSpace, compose_space, measure_table
from autopatch.supernet import DEFAULT_SPACE, Preset, Supernet

logger = logging.getLogger(__name__)

_QUERY_SHARE = 0.2  # of the good images; they are no part of the banks
_GOOD_FOLDER = Path("train", "good")


def measure_latency(
    images: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    space: str = DEFAULT_SPACE,
    weights: StrPath = "auto",
    preset: str = "default",
    choices: Mapping[str, Sequence[Choice]] | None = None,
    fixed: Mapping[str, Choice] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    space_options: Mapping[str, Any] | None = None,
    bit_depth: int | None = None,
    exif: str = "apply",
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measures the latency table of a search space on this machine, and writes it to a file.

    `run_search` takes the file as `latency_table`, on any machine.

    Args:
        images: Folder of good images, of the whole data set in the MVTec-AD layout, or image files:
            the kind of images that the detector will see. At least two.
        out: JSON file to write.
        space: Search space, as for the search.
        weights: See `load_supernet`; those of the search.
        preset: See `run_search`.
        choices: See `run_search`.
        fixed: See `run_search`.
        mean: See `run_search`.
        std: See `run_search`.
        space_options: See `run_search`.
        bit_depth: See `run_search`.
        exif: See `run_search`.
        seed: Seed of random weights.
        device: "cpu", "cuda" or "cuda:<number>".
        threads: CPU threads of the detector; those of torch if None. torch's number is restored
            afterwards.
        batch: Images per batch, at least 1. The latency is that of an image: the time of a batch,
            divided by its size.
        progress: Called during the measurement.

    Returns:
        The table, with the errors of its check.

    Raises:
        InputError: The images are missing or too few, the weights cannot be loaded, the file exists
            or cannot be written, or an argument is wrong.
    """
    where = usable_device(device)
    if threads is not None and threads < 1:
        raise InputError(f"`threads` is {threads}, expected at least 1")
    check_batch(batch)
    if Path(out).exists():
        raise InputError(f"{out}: exists; remove it or give another `out`")
    require_writable_file(out)
    good = _good_images(images)
    if len(good) < 2:
        raise InputError(f"`images` has {len(good)}, expected at least two good images")
    source = SupernetSource.find(space, weights, mean=mean, std=std, options=space_options)
    supernet = source.load(seed=seed, progress=progress)
    searched = find_preset(supernet, preset)
    search_space = find_space(supernet, searched, choices, fixed)
    reading, _ = decide(Reading(bit_depth=bit_depth, exif=exif), good)
    held_out = max(round(_QUERY_SHARE * len(good)), 1)
    order = np.random.default_rng(0).permutation(len(good)).tolist()
    with _threads(threads):
        table = measure_table(
            supernet,
            search_space,
            good=[good[index] for index in sorted(order[held_out:])],
            queries=[good[index] for index in sorted(order[:held_out])],
            device=where,
            batch=batch,
            reading=reading,
            progress=progress,
        )
    table.save(out)
    logger.info("latency of %s, %s", supernet.name, table.describe())
    return table


def check_batch(batch: int) -> None:
    """Raises InputError if a batch size is out of its range."""
    if batch < 1:
        raise InputError(f"`batch` is {batch}, expected at least 1")


def find_preset(supernet: Supernet, name: str) -> Preset:
    """The preset of a supernet with a name.

    Raises:
        InputError: There is none.
    """
    if name not in supernet.presets:
        raise InputError(
            f"`preset` is '{name}', expected one of {', '.join(supernet.presets)} for "
            f"{supernet.name}"
        )
    return supernet.presets[name]


def find_space(
    supernet: Supernet,
    preset: Preset,
    choices: Mapping[str, Sequence[Choice]] | None,
    fixed: Mapping[str, Choice] | None,
) -> SearchSpace:
    """The search space of `run_search`'s arguments.

    If the preset has the optional fields of the head, each can be fixed to any value, be it one of
    the choices or not.

    Raises:
        InputError: A name or a choice is wrong.
    """
    space = compose_space(supernet, preset=preset, choices=choices)
    if not fixed:
        return space
    given = dict(choices or {})
    optional = Head.off_choices().keys() - given.keys() if preset.optional_genes else set()
    rest: dict[str, Choice] = {}
    for name, value in fixed.items():
        if name not in optional:
            rest[name] = value
        elif same := [choice for choice in space.choices("head", name) if choice == value]:
            rest[name] = same[0]  # 2.0, if it is fixed to 2
        else:
            given[name] = (value,)
    try:
        return compose_space(supernet, preset=preset, choices=given).narrowed(rest)
    except InputError as error:
        raise InputError(f"`fixed`: {error}") from None


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _good_images(images: StrPath | Iterable[StrPath]) -> list[Path]:
    if not isinstance(images, str | os.PathLike):
        return [Path(image) for image in images]
    kind = path_kind(images)
    if kind != "folder":
        raise InputError(f"{images}: {'is a file' if kind else 'no such folder'}, expected images")
    whole = Path(images, _GOOD_FOLDER)
    return list(folder_images(whole if path_kind(whole) == "folder" else Path(images)))
