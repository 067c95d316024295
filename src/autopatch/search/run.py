"""The run folder of a search: its record, its split, and where its inputs come from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autopatch.data import Split
from autopatch.detector import images_digest
from autopatch.errors import InputError
from autopatch.progress import Progress
from autopatch.search.front import Front, Trial, non_dominated
from autopatch.search.study import WITHOUT_OUTCOME, Plan, Study, load_settings, load_trials
from autopatch.supernet import SearchSpace, Supernet, load_supernet, weights_files

STUDY = "study.db"
SPLIT = "split.json"
DETECTOR = "detector.safetensors"
REPORT = "report"
LOCK = ".lock"

# What proposes the architectures: with another version it may propose others.
_LIBRARIES = {"nsga2": "pymoo", "tpe": "optuna"}


@dataclass(frozen=True)
class Source:
    """Where a search has its images and its backbone from; stored with its record.

    Attributes:
        data: Folder of the data set, absolute.
        supernet: Name of the backbone, such as "timm:mobilenetv2_100".
        weights: Absolute path of a weights file or folder, or a word such as "random".
        mean: Channel means, None for those of the weights.
        std: Channel deviations, None for those of the weights.
        timm_kwargs: Arguments of the timm model, None for those of the weights.
        weights_sha256: Of the weights files, None where there are none.
        recalibrate_batch_norm: Whether subnets get the statistics of the good images.
        group_regex: What groups images by file name, None for no groups.
        groups_csv: Table of the images' groups, None for no groups.
        legacy_order: List of the names of the good images, None for the order of the protocol.
    """

    data: str
    supernet: str
    weights: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    timm_kwargs: Mapping[str, Any] | None = field(default=None)
    weights_sha256: str | None = None
    recalibrate_batch_norm: bool = False
    group_regex: str | None = None
    groups_csv: str | None = None
    legacy_order: str | None = None

    def load_supernet(self, *, seed: int, progress: Progress | None = None) -> Supernet:
        """The backbone; `seed` is that of random weights, `progress` is told of a download.

        Raises:
            InputError: The weights do not fit, or are not those the search was made with.
        """
        if self.weights_sha256 is not None:
            found = sha256(weights_files(self.supernet, self.weights))
            if found != self.weights_sha256:
                raise InputError(
                    f"{self.weights}: has sha256 {found[:12]}..., but the search was made with "
                    f"{self.weights_sha256[:12]}..."
                )
        return load_supernet(
            self.supernet,
            self.weights,
            mean=self.mean,
            std=self.std,
            timm_kwargs=self.timm_kwargs,
            seed=seed,
            recalibrate_batch_norm=self.recalibrate_batch_norm,
            progress=progress,
        )


def sha256(files: Sequence[Path]) -> str:
    """Hash of the contents of files, one after the other.

    Raises:
        InputError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


@dataclass(frozen=True)
class Run:
    """A run folder, read back.

    Attributes:
        path: The folder.
        source: Images and backbone.
        space: What was searched.
        seed: Of split, bank and optimizer.
        evaluations: Architectures asked for.
        cost: What the first objective was, a key of `COSTS`.
        split: Roles of the images.
        trials: All trials by number.
        optimizer: What proposed the architectures, in words.
        images_sha256: `images_digest` of the split's images when the search was made.
    """

    path: Path
    source: Source
    space: SearchSpace
    seed: int
    evaluations: int
    cost: str
    split: Split
    trials: tuple[Trial, ...]
    optimizer: str
    images_sha256: str

    @classmethod
    def open(cls, path: Path) -> Run:
        """Reads a run folder.

        Raises:
            InputError: The folder or a part of it is missing or damaged, or an image of the split
                is gone.
        """
        if not (path / STUDY).is_file():
            raise InputError(f"{path}: no {STUDY} in it, expected the folder of a search")
        settings = load_settings(path / STUDY)
        try:
            known = {f.name for f in fields(Source)}
            source = Source(**{k: v for k, v in settings["source"].items() if k in known})
            space = SearchSpace.from_json(settings["space"])
            same = ("seed", "evaluations", "cost", "images_sha256")
            values = {name: settings[name] for name in same}
            library = _LIBRARIES[settings["sampler"]]
            optimizer = f"{settings['sampler']} ({library} {settings['versions'][library]})"
        except (InputError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path / STUDY}: a setting is missing or damaged, or of another version of "
                f"autopatch ({error})"
            ) from error
        return cls(
            path=path,
            source=source,
            space=space,
            split=_read_split(path / SPLIT, Path(source.data)),
            trials=load_trials(path / STUDY),
            optimizer=optimizer,
            **values,
        )

    @property
    def front(self) -> Front:
        """The front of what has been evaluated.

        Raises:
            InputError: Nothing has.
        """
        done = [trial for trial in self.trials if trial.reason not in WITHOUT_OUTCOME]
        trials = non_dominated(done)
        if not trials:
            raise InputError(f"{self.path}: no candidate has been evaluated yet; resume the search")
        failed = sum(trial.evaluation is None for trial in done)
        return Front(trials=trials, evaluated=len(done), failed=failed)

    def trial(self, number: int) -> Trial:
        """An evaluated trial.

        Raises:
            InputError: There is none of that number, or it failed.
        """
        for trial in self.trials:
            if trial.number == number:
                if trial.evaluation is None:
                    raise InputError(f"{self.path}: trial {number} failed: {trial.reason}")
                return trial
        raise InputError(f"{self.path}: has no trial {number}, but {len(self.trials)} from 0")

    def require_same_images(self) -> None:
        """Raises InputError where images of the split were changed since the search."""
        if images_digest(self.split.images()) != self.images_sha256:
            raise InputError(
                f"{self.source.data}: its images were changed since the search of {self.path}"
            )

    def load_supernet(self) -> Supernet:
        """The backbone of the search."""
        return self.source.load_supernet(seed=self.seed)


@contextmanager
def open_search(
    path: Path,
    split: Split,
    source: Source,
    plan: Plan,
    *,
    resume: bool,
) -> Iterator[Study]:
    """The record of a search in a run folder, which no other process can search in meanwhile.

    Args:
        path: The folder. A new one appears complete or not at all.
        split: Roles of the images.
        source: Images and backbone.
        plan: What to search; split and source are added to its settings.
        resume: Whether to go on in a folder, or to make a new one.

    Raises:
        InputError: The folder exists, or to resume, does not; it cannot be written; another process
            is searching in it; it was made with other settings or from other images.
    """
    settings = {
        "source": asdict(source),
        "shots": split.shots,
        "reserve": split.reserve,
        "protocol": split.protocol,
        "images_sha256": images_digest(split.images()),
        "versions": {name: version(name) for name in (_LIBRARIES[plan.sampler], "timm", "torch")},
    }
    plan = replace(plan, settings={**plan.settings, **settings})
    if not resume:
        _create(path, split.to_json(Path(source.data)), plan)
    elif not (path / STUDY).is_file():
        raise InputError(f"{path}: no {STUDY} in it, nothing to resume")
    with _only_searcher(path):
        # Where the request differs, the record names the setting.
        stored = load_settings(path / STUDY).get("source")
        if resume and stored == json.loads(json.dumps(asdict(source))):
            _check_split(path / SPLIT, split, Path(source.data))
        with Study.resume(path / STUDY, plan) as study:
            yield study


def _check_split(path: Path, split: Split, root: Path) -> None:
    stored = _read_split(path, root)
    same_request = all(
        getattr(stored, name) == getattr(split, name)
        for name in ("protocol", "seed", "shots", "reserve")
    )
    if same_request and stored != split:
        raise InputError(
            f"{path}: not the split that {root} gives now: images or groups were changed since the "
            "search began"
        )


@contextmanager
def _only_searcher(path: Path) -> Iterator[None]:
    with (path / LOCK).open("w") as file:
        try:
            # Let go by the system when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another process is searching in this folder") from None
        yield


def new_temporary_folder(path: Path) -> Path:
    """An empty hidden folder beside `path`, to fill and then move there; parents are made.

    Raises:
        InputError: It cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        folder.chmod(0o777 & ~_umask())
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.strerror}") from error
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _create(path: Path, split: Mapping[str, Any], plan: Plan) -> None:
    if path.exists():
        raise InputError(
            f"{path}: exists; give --resume to go on with the search in it, or another --out"
        )
    unfinished = new_temporary_folder(path)
    try:
        write_json(unfinished / SPLIT, split)
        Study.create(unfinished / STUDY, plan).close()
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read_split(path: Path, root: Path) -> Split:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return Split.from_json(document, root)


def write_json(path: Path, document: Mapping[str, Any]) -> Path:
    """Writes a file that appears whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        return unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
