"""The run folder of a search: its files and its lock."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from autopatch import __version__
from autopatch.data import (
    KINDS,
    Anomaly,
    Manifest,
    Split,
    anomalies_digest,
    draw_anomalies,
    load_anomalies,
)
from autopatch.errors import InputError, one_line
from autopatch.files import (
    StrPath,
    new_folder,
    require_writable_file,
    require_writable_folder,
    stored_path,
    write_json,
)
from autopatch.progress import Progress
from autopatch.runs.source import Inputs
from autopatch.search import SAMPLERS, Plan, Study, load_settings
from autopatch.search.storage import NO_LOCKS

STUDY = "study.db"
SYNTHETIC = "synthetic"
SPLIT = "split.json"
MANIFEST = "manifest.json"
DETECTOR = "detector.safetensors"
TEST_RESULTS = "evaluation.json"
REPORT = "report"
LOCK = ".lock"

PER_KIND = 10
"""Default number of synthetic anomalies of each kind."""


def versions(sampler: str) -> dict[str, str]:
    """Versions of the software that a search depends on, the optimizer's library first.

    Raises:
        InputError: The sampler is unknown.
    """
    names = (SAMPLERS[sampler].library, "timm", "torch")
    return {name: version(name) for name in names} | {"autopatch": __version__}


def is_run(path: StrPath) -> bool:
    """Whether a folder holds the record of a search."""
    return Path(path, STUDY).is_file()


@dataclass(frozen=True)
class Drawing:
    """The synthetic anomalies of a search, see `autopatch.data.draw_anomalies`.

    Attributes:
        seed: Seed of the random choices.
        per_kind: Number of anomalies of each kind.
        kinds: Names of the kinds; None for all.

    Raises:
        InputError: A kind is unknown, or `per_kind` is below 1.
    """

    seed: int
    per_kind: int = PER_KIND
    kinds: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds or ():
            KINDS[kind]  # refuses an unknown one
        if self.per_kind < 1:
            raise InputError(f"`per_kind` is {self.per_kind}, expected at least 1")

    def draw(
        self, folder: Path, inputs: Inputs, progress: Progress | None = None
    ) -> tuple[Anomaly, ...]:
        """Draws the anomalies on the hold-out images, with textures of the fit images.

        Args:
            folder: Folder to create.
            inputs: The images.
            progress: Called after every anomaly.
        """
        split = inputs.split
        return draw_anomalies(
            split.holdout,
            folder,
            textures=split.fit,
            shots=split.validation,
            kinds=self.kinds,
            per_kind=self.per_kind,
            seed=self.seed,
            reading=inputs.findings.reading,
            root=inputs.root,
            progress=progress,
        )


@contextmanager
def open_search(
    path: Path,
    inputs: Inputs,
    plan: Plan,
    *,
    drawing: Drawing | None = None,
    resume: bool,
    lock: bool = True,
    progress: Progress | None = None,
) -> Iterator[tuple[Study, tuple[Anomaly, ...]]]:
    """Opens the record of a search in a run folder, and locks the folder.

    Args:
        path: The folder. A new one appears complete or not at all.
        inputs: Images and backbone.
        plan: Settings of the search. The weights, split, seeds, digests of the images and of the
            synthetic anomalies, and software versions are added to them. The paths of data and
            weights are stored but may differ on resume.
        drawing: The synthetic anomalies, which are drawn into a new folder; None for none.
        resume: Whether to continue the search in an existing folder; if False, a new one is
            created.
        lock: Whether to lock the folder.
        progress: Called after every anomaly that is drawn.

    Yields:
        The record, open for writing, and the synthetic anomalies.

    Raises:
        InputError: A new folder exists already, or a resumed one has no record; the folder cannot
            be written or locked; another process is searching in it; or the resumed search was
            started with other settings, weights or images, or another order of the images.
    """
    split, root, source = inputs.split, inputs.root, inputs.source
    manifest = Manifest.of(split, root)
    plan = replace(
        plan,
        settings={
            **plan.settings,
            "source": source.settings(),
            **inputs.request.settings(),
            **inputs.findings.reading.to_json(),
            # In a group, so that `seed` is compared before the seed that defaults to it.
            "seeds": {"split_seed": inputs.request.seed},
            "data_digest": manifest.digest,
            "weights_sha256": inputs.supernet.weights_sha256,
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
            if drawing is not None:
                drawing.draw(unfinished / SYNTHETIC, inputs, progress)
            plan = _with_drawn(plan, drawing, unfinished)
            with _alone(unfinished, lock):
                Study.create(unfinished / STUDY, plan).close()
    else:
        require_resumable(path, lock=lock)
    with _alone(path, lock):
        if resume:
            plan = _same_inputs(path, inputs, _with_drawn(plan, drawing, path), manifest)
        with Study.resume(path / STUDY, plan) as study:
            yield study, read_synthetic(path, inputs.root, drawn=drawing is not None)


def _with_drawn(plan: Plan, drawing: Drawing | None, run: Path) -> Plan:
    """The plan with what was drawn into a run folder."""
    if drawing is None:
        return plan
    drawn = {
        "kinds": None if drawing.kinds is None else list(drawing.kinds),
        "per_kind": drawing.per_kind,
        "synthetic": anomalies_digest(run / SYNTHETIC) if (run / SYNTHETIC).is_dir() else None,
    }
    return replace(plan, settings={**plan.settings, "drawing": drawn})


def read_synthetic(run: Path, root: Path, *, drawn: bool) -> tuple[Anomaly, ...]:
    """The synthetic anomalies of a run; none if it has none.

    Args:
        run: The run folder.
        root: Folder of the data set.
        drawn: Whether the search has drawn any.

    Raises:
        InputError: A file is missing or has changed.
    """
    return load_anomalies(run / SYNTHETIC, root) if drawn else ()


def _same_inputs(path: Path, inputs: Inputs, plan: Plan, manifest: Manifest) -> Plan:
    """Checks that images and weights are unchanged, and returns the plan to resume with.

    Changed split settings change the roles of the images, and so the digest. The returned plan then
    has the stored digest, so that the error names the setting and not the images.

    Raises:
        InputError: Images, masks, roles, types, groups or weights have changed, or the images of a
            role are in another order.
    """
    stored = load_settings(path / STUDY)
    given = plan.to_json()
    same_request = stored.get("seeds", {}).get("split_seed") == given["seeds"][
        "split_seed"
    ] and all(stored.get(name) == given[name] for name in ("protocol", "shots", "reserve"))
    if not same_request:
        return replace(plan, settings={**plan.settings, "data_digest": stored.get("data_digest")})
    require_same_data(path, manifest, inputs.root)
    _require_same_order(path, inputs.split, inputs.root)
    was, now = stored.get("source", {}), given["source"]
    same_weights = (
        was.get("files_sha256") == now["files_sha256"]
        and stored.get("weights_sha256") == given["weights_sha256"]
    )
    if was.get("space") == now["space"] and not same_weights:
        raise inputs.source.changed()
    return plan


def require_new(path: Path) -> None:
    """Raises InputError if `path` exists, or a folder cannot be created there."""
    if path.exists():
        raise InputError(
            f"{path}: exists; give `resume=True` to continue the search in it, or another `out`"
        )
    require_writable_folder(path)


def require_resumable(path: Path, *, lock: bool) -> None:
    """Raises InputError if there is no search in `path`, its record cannot be written, or another
    process is searching in it."""
    if not (path / STUDY).is_file():
        raise InputError(f"{path}: no {STUDY} in it, nothing to resume")
    require_writable_file(path / STUDY, in_place=True)
    with _alone(path, lock):
        pass


def require_same_data(run: Path, now: Manifest, root: Path) -> None:
    """Checks that images, masks, roles, types and groups have not changed since a search.

    Args:
        run: The run folder, with the manifest written at the start of the search.
        now: The current manifest, with the roles of the search.
        root: Folder of the data set, for the message.

    Raises:
        InputError: Something has changed, or the manifest cannot be read.
    """
    difference = Manifest.from_json(read_json(run / MANIFEST)).differences(now)
    if difference is not None:
        raise InputError(f"{root}: {difference}, since the search of {run}")


def _require_same_order(run: Path, split: Split, root: Path) -> None:
    """Checks the order of the images of each role. Memory banks depend on it; the digest does not.

    Raises:
        InputError: The images of a role are in another order than at the start of the search.
    """
    stored = read_split(run, root).roles
    for role, samples in split.roles.items():
        if samples != stored[role]:
            raise InputError(
                f"{root}: the images of the role {role!r} are in another order than when the "
                f"search of {run} began, expected the same order (that of `legacy_order`, if given)"
            )


def read_split(run: Path, root: Path) -> Split:
    """Reads the roles of the images of a run. The image files need not exist.

    Args:
        run: The folder of the search.
        root: Folder of the data set.

    Raises:
        InputError: The file cannot be read or holds no split.
    """
    return Split.from_json(read_json(run / SPLIT), root, require_files=False)


def read_json(path: Path) -> Mapping[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        InputError: The file cannot be read, is not JSON, or is not an object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({one_line(error)})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds {type(document).__name__}, expected a JSON object")
    return document


@contextmanager
def _alone(path: Path, lock: bool) -> Iterator[None]:
    """Keeps other processes from searching in a folder.

    Args:
        path: The folder.
        lock: Whether to lock it. If False, its record is opened without locks from now on.

    Raises:
        InputError: Another process is searching in it, or it cannot be locked or written.
    """
    try:
        file = (path / (LOCK if lock else NO_LOCKS)).open("a")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    with file:
        if lock:
            _lock(path, file)
            (path / NO_LOCKS).unlink(missing_ok=True)
        yield


def _lock(path: Path, file: TextIO) -> None:
    try:
        # The system releases the lock when the process ends, even after a crash.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another process is searching in this folder") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be locked: {error.strerror}; if no other process is searching in it, "
            "give `lock=False`"
        ) from error
