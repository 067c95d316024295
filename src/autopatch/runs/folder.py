"""The run folder of a search: its files, and the one process that may search in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autopatch.data import Manifest, Split
from autopatch.errors import InputError
from autopatch.files import new_folder, stored_path, write_json
from autopatch.runs.source import SplitRequest, SupernetSource
from autopatch.search import SAMPLERS, Plan, Study, load_settings

STUDY = "study.db"
SPLIT = "split.json"
MANIFEST = "manifest.json"
DETECTOR = "detector.safetensors"
TEST_RESULTS = "evaluation.json"
REPORT = "report"
LOCK = ".lock"


def versions(sampler: str) -> dict[str, str]:
    """Versions of the libraries that decide the outcome of a search."""
    names = (SAMPLERS[sampler].library, "timm", "torch")
    return {name: version(name) for name in names}


@contextmanager
def open_search(
    path: Path,
    *,
    split: Split,
    root: Path,
    source: SupernetSource,
    request: SplitRequest,
    plan: Plan,
    resume: bool,
) -> Iterator[Study]:
    """The record of a search in a run folder, which no other process can search in meanwhile.

    Args:
        path: The folder. A new one appears complete or not at all.
        split: Roles of the images.
        root: Folder of the data set.
        source: The backbone.
        request: What the split was asked for.
        plan: What to search; source, request and the images are added to its settings.
        resume: Whether to go on in a folder, or to make a new one.

    Raises:
        InputError: The folder exists, or to resume, does not; it cannot be written; another process
            is searching in it; it was made with other settings or from other images.
    """
    manifest = Manifest.of(split, root)
    plan = replace(
        plan,
        settings={
            **plan.settings,
            "source": source.settings(),
            **request.settings(),
            "data_digest": manifest.digest,
            "versions": versions(plan.sampler),
        },
        unchecked={
            "paths": {"data": stored_path(root, path), "weights": source.stored_weights(path)}
        },
    )
    if not resume:
        require_new(path)
        with new_folder(path) as unfinished:
            write_json(unfinished / SPLIT, split.to_json(root))
            write_json(unfinished / MANIFEST, manifest.to_json())
            Study.create(unfinished / STUDY, plan).close()
    elif not (path / STUDY).is_file():
        raise InputError(f"{path}: no {STUDY} in it, nothing to resume")
    with _only_searcher(path):
        if resume:
            plan = _same_inputs(path, plan, source, manifest, root)
        with Study.resume(path / STUDY, plan) as study:
            yield study


def _same_inputs(
    path: Path, plan: Plan, source: SupernetSource, manifest: Manifest, root: Path
) -> Plan:
    """The plan of a search to resume, whose images and weights are those it was started with.

    Another request gives the images other roles: the plan then has the stored digest, so that the
    record names the setting that differs.

    Raises:
        InputError: Images, masks, groups or weights were changed.
    """
    stored = load_settings(path / STUDY)
    given = plan.to_json()
    same = ("protocol", "seed", "shots", "reserve")
    if any(stored.get(name) != given[name] for name in same):
        return replace(plan, settings={**plan.settings, "data_digest": stored.get("data_digest")})
    require_same_data(path, manifest, root)
    was, now = stored.get("source", {}), given["source"]
    if was.get("space") == now["space"] and was.get("weights_sha256") != now["weights_sha256"]:
        raise source.changed()
    return plan


def require_new(path: Path) -> None:
    """Raises InputError where something is at `path`."""
    if path.exists():
        raise InputError(
            f"{path}: exists; give --resume to go on with the search in it, or another --out"
        )


def require_same_data(run: Path, now: Manifest, root: Path) -> None:
    """Raises InputError, in words, where images, masks or groups were changed since the search."""
    difference = Manifest.from_json(read_json(run / MANIFEST)).differences(now)
    if difference is not None:
        raise InputError(f"{root}: {difference}, since the search of {run}")


def read_split(run: Path, root: Path) -> Split:
    """The roles of the images of a run; `require_same_data` tells of those that are missing.

    Raises:
        InputError: The file cannot be read.
    """
    return Split.from_json(read_json(run / SPLIT), root, require_files=False)


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        InputError: It cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds {type(document).__name__}, expected a JSON object")
    return document


@contextmanager
def _only_searcher(path: Path) -> Iterator[None]:
    # Let go by the system when the process ends, however it ends.
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"{path}: another process is searching in this folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
