"""The run folder of a search: its record, its split, and what is made of them later."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autopatch.data import Split, load_images, load_masks
from autopatch.detector import MAX_CORESET_SAMPLE, Detector, Progress, score_maps
from autopatch.errors import InputError
from autopatch.search.candidates import CandidateEvaluator
from autopatch.search.front import Front, Trial, non_dominated
from autopatch.search.study import INTERRUPTED, Study, load_settings, load_trials
from autopatch.supernet import Architecture, SearchSpace, TimmSupernet, load_supernet

STUDY = "study.db"
SPLIT = "split.json"
DETECTOR = "detector.safetensors"
EVALUATION = "evaluation.json"
REPORT = "report"
LOCK = ".lock"


@dataclass(frozen=True)
class Source:
    """Where a search has its images and its backbone from; stored with its record.

    Attributes:
        data: Folder of the data set, absolute.
        supernet: Name of the backbone, such as "timm:mobilenetv2_100".
        weights: Absolute path of a weights file, "pretrained" or "random".
        mean: Channel means, None for those of the weights.
        std: Channel deviations, None for those of the weights.
        timm_kwargs: Arguments of the timm model, None for those of the weights.
        weights_sha256: Of the weights file, None where there is none.
        group_regex: What groups images by file name, None for no groups.
        groups_csv: Table of the images' groups, None for no groups.
    """

    data: str
    supernet: str
    weights: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    timm_kwargs: Mapping[str, Any] | None = field(default=None)
    weights_sha256: str | None = None
    group_regex: str | None = None
    groups_csv: str | None = None

    def load_supernet(self, *, seed: int) -> TimmSupernet:
        """The backbone; `seed` is that of random weights.

        Raises:
            InputError: The weights do not fit, or are not those the search was made with.
        """
        if self.weights_sha256 is not None:
            found = sha256(Path(self.weights))
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
        )


def sha256(path: Path) -> str:
    """Hash of a file.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Measured:
    """A detector on the test part.

    Attributes:
        name: What it is.
        kind: "pick", "patchcore" or "front".
        trial: Number of the trial it comes from, None for the PatchCore setting.
        total_flops: FLOPs an image.
        metrics: By name.
        milliseconds: Median time of one decoded image, None where it was not taken.
    """

    name: str
    kind: str
    trial: int | None
    total_flops: int
    metrics: Mapping[str, float]
    milliseconds: float | None

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """A run folder, read back.

    Attributes:
        path: The folder.
        source: Images and backbone.
        space: What was searched.
        seed: Of split, bank and optimizer.
        evaluations: Architectures asked for.
        split: Roles of the images.
        trials: All trials by number.
    """

    path: Path
    source: Source
    space: SearchSpace
    seed: int
    evaluations: int
    split: Split
    trials: tuple[Trial, ...]

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
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path / STUDY}: a setting is missing or damaged ({error})"
            ) from error
        return cls(
            path=path,
            source=source,
            space=space,
            seed=settings["seed"],
            evaluations=settings["evaluations"],
            split=_read_split(path / SPLIT, Path(source.data)),
            trials=load_trials(path / STUDY),
        )

    @property
    def front(self) -> Front:
        """The front of what has been evaluated.

        Raises:
            InputError: Nothing has.
        """
        done = [trial for trial in self.trials if trial.reason != INTERRUPTED]
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

    def load_supernet(self) -> TimmSupernet:
        """The backbone of the search."""
        return self.source.load_supernet(seed=self.seed)

    def measured(self) -> list[Measured]:
        """What `evaluate_run` found, if it has run and been written.

        Raises:
            InputError: The file is damaged.
        """
        path = self.path / EVALUATION
        if not path.is_file():
            return []
        try:
            return [Measured(**row) for row in json.loads(path.read_text())["rows"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); run evaluate again") from error

    def write_measured(self, rows: Sequence[Measured]) -> Path:
        """Writes what `evaluate_run` found; the file appears whole or not at all."""
        return _write_json(self.path / EVALUATION, {"rows": [row.to_json() for row in rows]})


@contextmanager
def open_search(
    path: Path,
    split: Split,
    source: Source,
    *,
    resume: bool,
    space: SearchSpace,
    evaluations: int,
    seed: int,
    population: int,
    initial: Sequence[Architecture],
) -> Iterator[Study]:
    """The record of a search in a run folder, which no other process can search in meanwhile.

    Args:
        path: The folder. A new one appears complete or not at all.
        split: Roles of the images.
        source: Images and backbone.
        resume: Whether to go on in a folder, or to make a new one.
        space, evaluations, seed, population, initial: As for `Study.create`.

    Raises:
        InputError: The folder exists, or to resume, does not; it cannot be written; another process
            is searching in it; it was made with other settings or from other images.
    """
    plan: dict[str, Any] = {
        "space": space,
        "evaluations": evaluations,
        "seed": seed,
        "population": population,
        "initial": initial,
        "settings": {
            "source": asdict(source),
            "shots": split.shots,
            "reserve": split.reserve,
            "protocol": split.protocol,
        },
    }
    if not resume:
        _create(path, split.to_json(Path(source.data)), plan)
    elif not (path / STUDY).is_file():
        raise InputError(f"{path}: no {STUDY} in it, nothing to resume")
    with _only_searcher(path), Study.resume(path / STUDY, **plan) as study:
        if _read_split(path / SPLIT, Path(source.data)) != split:
            raise InputError(
                f"{path / SPLIT}: not the split that {source.data} gives now: images were added, "
                "removed or renamed since the search began"
            )
        yield study


@contextmanager
def _only_searcher(path: Path) -> Iterator[None]:
    with (path / LOCK).open("w") as file:
        try:
            # Let go by the system when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another process is searching in this folder") from None
        yield


def _create(path: Path, split: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    if path.exists():
        raise InputError(
            f"{path}: exists; give --resume to go on with the search in it, or another --out"
        )
    unfinished = path.with_name(f".{path.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _write_json(unfinished / SPLIT, split)
        Study.create(unfinished / STUDY, **plan).close()
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


def _write_json(path: Path, document: Mapping[str, Any]) -> Path:
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    return unfinished.replace(path)


def baselines(space: SearchSpace, supernet: TimmSupernet, split: Split) -> tuple[Architecture, ...]:
    """What a search evaluates first: the PatchCore setting with the nearest bank size of the space,
    so that the pick is never worse than that on the validation part; nothing if the space lacks it.
    """
    setting = patchcore_setting(supernet, split)
    if setting is None:
        return ()
    sizes = space.choices("bank_size")
    if not sizes or setting.bank_size is None:
        return ()
    wanted = setting.bank_size
    nearest = replace(setting, bank_size=min(sizes, key=lambda size: abs(size - wanted)))
    try:
        space.encode(nearest)
    except InputError:
        return ()
    return (nearest,)


def patchcore_setting(supernet: TimmSupernet, split: Split) -> Architecture | None:
    """The PatchCore setting of a backbone: levels of stride 8 and 16, patch size 3, a coreset of
    10 % of the patches of the fit images; None if the backbone lacks such levels."""
    architecture = supernet.patchcore(bank_size=None)
    if architecture is None:
        return None
    positions = math.prod(supernet.grid(architecture.levels, architecture.image_size))
    patches = len(split.fit) * positions
    bank_size = min(max(round(patches / 10), 1), MAX_CORESET_SAMPLE)
    return replace(architecture, bank_size=bank_size)


def fit_detector(
    run: Run,
    supernet: TimmSupernet,
    architecture: Architecture,
    *,
    false_alarm_rate: float = 0.05,
    progress: Progress | None = None,
) -> Detector:
    """Fits an architecture on the run's good images and calibrates it on those kept for that."""
    return Detector.fit(
        supernet,
        architecture,
        [sample.path for sample in run.split.fit],
        calibration=[sample.path for sample in run.split.calibration],
        false_alarm_rate=false_alarm_rate,
        seed=run.seed,
        progress=progress,
    )


def evaluate_run(
    run: Run, detector: Detector, *, progress: Progress | None = None
) -> list[Measured]:
    """Measures the fitted detector, the PatchCore setting, and every trial of the front.

    The test part is used for nothing before this. The best of the front by test rwAP is not a
    result one can have: it is chosen with the test labels, and shows what choosing costs.

    Returns:
        The fitted detector, the PatchCore setting if the backbone has one, then the front by
        ascending total FLOPs.
    """
    supernet = run.load_supernet()
    rows = [_measured("fitted detector", "pick", run, detector, progress)]
    architecture = patchcore_setting(supernet, run.split)
    if architecture is not None:
        baseline = fit_detector(run, supernet, architecture, progress=progress)
        rows.append(_measured("PatchCore setting", "patchcore", run, baseline, progress))
    evaluator = CandidateEvaluator(
        supernet, fit=run.split.fit, scored=run.split.test, seed=run.seed
    )
    trials = run.front.trials
    for done, trial in enumerate(trials):
        if progress is not None:
            progress("front on the test part", done, len(trials))
        evaluation = evaluator(trial.architecture)
        rows.append(
            Measured(
                name=f"trial {trial.number}",
                kind="front",
                trial=trial.number,
                total_flops=evaluation.total_flops,
                metrics=evaluation.metrics,
                milliseconds=None,
            )
        )
    if progress is not None:
        progress("front on the test part", len(trials), len(trials))
    return rows


_TIMED_IMAGES = 20


def _measured(
    name: str, kind: str, run: Run, detector: Detector, progress: Progress | None
) -> Measured:
    test = run.split.test
    paths = [sample.path for sample in test]
    maps = detector.predict(paths, progress=progress).maps
    images = load_images(paths[:_TIMED_IMAGES], detector.architecture.image_size)
    seconds = []
    for image in images.split(1):
        started = time.perf_counter()
        detector.predict(image)
        seconds.append(time.perf_counter() - started)
    masks = load_masks(test, detector.evaluation_size)
    return Measured(
        name=name,
        kind=kind,
        trial=None,
        total_flops=detector.total_flops,
        metrics=score_maps(maps, masks, [sample.type for sample in test]),
        milliseconds=1e3 * statistics.median(seconds),
    )
