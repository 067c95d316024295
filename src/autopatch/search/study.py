"""The record of a search: one Optuna study in an SQLite file, one trial an evaluation.

`optuna-dashboard sqlite:///RUN/study.db` opens it. A trial holds the active genes as parameters,
the objectives as values, and as user attributes the genome, the architecture, every metric
("metrics.AP"), the timings ("timings.fit") or the reason of a failure; the study's user
attributes are the settings of the search.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autopatch.errors import InputError
from autopatch.search.evaluation import Evaluation
from autopatch.search.front import Trial
from autopatch.supernet import Architecture, SearchSpace

INTERRUPTED = "interrupted"

_NAME = "autopatch"


class Study:
    """A study open for writing; made by `Study.create` or `Study.resume`, closed by `with`.

    Attributes:
        path: The SQLite file.
        space: What is searched.
        evaluations: Distinct architectures to evaluate, failed ones counted.
        seed: Seed of the optimizer.
        population: Architectures a generation.
        initial: Architectures evaluated first.
    """

    def __init__(
        self,
        path: Path,
        *,
        space: SearchSpace,
        evaluations: int,
        seed: int,
        population: int,
        initial: Sequence[Architecture],
    ) -> None:
        self.path = path
        self.space = space
        self.evaluations = evaluations
        self.seed = seed
        self.population = population
        self.initial = tuple(initial)
        self._storage = _open(path)
        self._id = self._storage.get_study_id_from_name(_NAME)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        space: SearchSpace,
        evaluations: int,
        seed: int = 0,
        population: int = 12,
        initial: Sequence[Architecture] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Study:
        """A new, empty study; the file appears complete or not at all.

        Args:
            path: The SQLite file; its folder exists, the file does not.
            space: What is searched.
            evaluations: Distinct architectures to evaluate.
            seed: Seed of the optimizer, not negative.
            population: Architectures a generation, at least 2.
            initial: Architectures evaluated first; of `space`.
            settings: Whatever else decides the outcome (data, weights, versions, ...): values that
                JSON can hold. A resumed search must have the same.

        Raises:
            InputError: If an argument is out of range, the file exists or cannot be written.
        """
        stored = _settings(space, evaluations, seed, population, initial, settings)
        if path.exists():
            raise InputError(f"{path}: exists, expected a new file")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder, cannot write {path.name}")
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            unfinished.unlink(missing_ok=True)
            unfinished.touch()
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        with _quiet():
            storage = _open(unfinished)
            study = optuna.create_study(
                study_name=_NAME,
                storage=storage,
                directions=[StudyDirection.MINIMIZE, StudyDirection.MINIMIZE],
            )
            study.set_metric_names(["total_flops", "1 - rwAP"])
            for name, value in stored.items():
                study.set_user_attr(name, value)
        _close(storage)
        unfinished.replace(path)
        return cls(
            path,
            space=space,
            evaluations=evaluations,
            seed=seed,
            population=population,
            initial=initial,
        )

    @classmethod
    def resume(
        cls,
        path: Path,
        *,
        space: SearchSpace,
        evaluations: int,
        seed: int = 0,
        population: int = 12,
        initial: Sequence[Architecture] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Study:
        """The study of an earlier search, to go on with; arguments as for `create`.

        Trials left running by a killed process become failed ones with the reason "interrupted",
        so no other process may be searching in this file.

        Raises:
            InputError: If there is no study, or if a setting differs from the stored one;
                `evaluations` alone may have grown.
        """
        given = _settings(space, evaluations, seed, population, initial, settings)
        stored = load_settings(path)
        grown = given["evaluations"] >= stored.get("evaluations", 0)
        compared = stored | {"evaluations": evaluations} if grown else stored
        difference = _difference(compared, given)
        if difference is not None:
            name, before, now = difference
            raise InputError(
                f"{path}: the search was started with {name} = {before}, cannot resume it with "
                f"{now}"
            )
        study = cls(
            path,
            space=space,
            evaluations=evaluations,
            seed=seed,
            population=population,
            initial=initial,
        )
        study._storage.set_study_user_attr(study._id, "evaluations", evaluations)
        for trial in study._storage.get_all_trials(study._id, states=(TrialState.RUNNING,)):
            study.fail(trial.number, INTERRUPTED)
        return study

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the study cannot be used any more."""
        _close(self._storage)

    def trials(self) -> tuple[Trial, ...]:
        """All trials by number."""
        return tuple(_trial(frozen) for frozen in self._storage.get_all_trials(self._id))

    def start(self, genome: tuple[int, ...]) -> int:
        """Records, in one transaction, that a canonical genome is being evaluated.

        Returns:
            The trial's number.
        """
        parameters = self.space.parameters(genome)
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=parameters,
            distributions={
                gene.name: CategoricalDistribution(gene.choices)
                for gene in self.space.genes
                if gene.name in parameters
            },
            user_attrs={
                "genome": list(genome),
                "architecture": self.space.decode(genome).to_json(),
            },
        )
        return self._storage.get_trial(self._storage.create_new_trial(self._id, running)).number

    def complete(self, number: int, evaluation: Evaluation) -> Trial:
        """Records the result of a running trial."""
        attributes = {f"metrics.{name}": value for name, value in evaluation.metrics.items()}
        attributes |= {f"timings.{name}": value for name, value in evaluation.timings.items()}
        return self._finish(number, TrialState.COMPLETE, attributes, evaluation.objectives)

    def fail(self, number: int, reason: str) -> Trial:
        """Records why a running trial has no result."""
        return self._finish(number, TrialState.FAIL, {"reason": reason}, None)

    def _finish(
        self,
        number: int,
        state: TrialState,
        attributes: Mapping[str, Any],
        values: tuple[float, float] | None,
    ) -> Trial:
        # The state comes last: until then the trial is running and a resumed search repeats it.
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, state, values)
        return _trial(self._storage.get_trial(trial_id))


def load_trials(path: Path) -> tuple[Trial, ...]:
    """All trials of a stored study by number, finished or not; writes nothing.

    Raises:
        InputError: If the file is missing or is not the record of a search.
    """
    with _stored(path) as storage:
        frozen = storage.get_all_trials(storage.get_study_id_from_name(_NAME))
        return tuple(_trial(trial) for trial in frozen)


def load_settings(path: Path) -> dict[str, Any]:
    """The settings that a stored study was started with; writes nothing.

    Returns:
        "space" (JSON of the search space), "evaluations", "seed", "population", "initial"
        (genomes) and what the caller added.

    Raises:
        InputError: If the file is missing or is not the record of a search.
    """
    with _stored(path) as storage:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(_NAME))


def _settings(
    space: SearchSpace,
    evaluations: int,
    seed: int,
    population: int,
    initial: Sequence[Architecture],
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    for name, value, least in (
        ("evaluations", evaluations, 1),
        ("seed", seed, 0),
        ("population", population, 2),
    ):
        if value < least:
            raise InputError(f"{name} is {value}, expected at least {least}")
    own = {
        "space": space.to_json(),
        "evaluations": evaluations,
        "seed": seed,
        "population": population,
        "initial": [space.encode(architecture) for architecture in initial],
    }
    other = dict(settings or {})
    if own.keys() & other.keys():
        raise ValueError(f"settings hold {sorted(own.keys() & other.keys())}, which have arguments")
    # Through JSON, so that tuples and lists compare equal to what the file gives back.
    result: dict[str, Any] = json.loads(json.dumps(own | other, allow_nan=False))
    return result


def _difference(stored: Any, given: Any, name: str = "") -> tuple[str, str, str] | None:
    """Name and both values of the first setting that differs, however deep it lies."""
    if stored == given:
        return None
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in sorted(stored.keys() | given.keys()):
            inner = f"{name}.{key}" if name else key
            if key not in stored:
                return inner, "nothing", _short(given[key])
            if key not in given:
                return inner, _short(stored[key]), "nothing"
            found = _difference(stored[key], given[key], inner)
            if found is not None:
                return found
    both_lists = isinstance(stored, list) and isinstance(given, list)
    if both_lists and len(stored) == len(given):
        for i, (before, now) in enumerate(zip(stored, given, strict=True)):
            if isinstance(before, dict | list) and before != now:
                return _difference(before, now, f"{name}[{i}]")
    return name, _short(stored), _short(given)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@contextmanager
def _stored(path: Path) -> Iterator[RDBStorage]:
    """Opens an existing study, having made sure that it is one."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the study of a search")
    # RDBStorage would add its tables to a foreign database.
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)
        try:
            names = [row[0] for row in connection.execute("SELECT study_name FROM studies")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InputError(f"{path}: not the study of a search ({error})") from None
    if _NAME not in names:
        raise InputError(f"{path}: holds the studies {names}, expected {_NAME!r} among them")
    try:
        storage = _open(path)
        try:
            yield storage
        finally:
            _close(storage)
    except (
        sqlalchemy.exc.SQLAlchemyError,
        StorageInternalError,
        RuntimeError,  # tables of another Optuna version
        KeyError,  # trials or attributes that no search wrote
        ValueError,
    ) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable study of a search ({line})") from None


def _open(path: Path) -> RDBStorage:
    def connect() -> sqlite3.Connection:
        # mode=rw, because SQLite would otherwise create a missing file.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, check_same_thread=False)

    # With a connection of our own, as in a URL a path that holds "?", "#" or "{" is misread.
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


def _close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and no notes on experimental functions from Optuna."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _trial(frozen: FrozenTrial) -> Trial:
    attributes = frozen.user_attrs
    evaluation = None
    reason = None
    if frozen.state == TrialState.COMPLETE:
        evaluation = Evaluation(
            total_flops=int(frozen.values[0]),
            metrics=_prefixed(attributes, "metrics."),
            timings=_prefixed(attributes, "timings."),
        )
    elif frozen.state == TrialState.FAIL:
        reason = attributes.get("reason", "failed without a recorded reason")
    else:
        reason = "not finished"
    return Trial(
        number=frozen.number,
        genome=tuple(attributes["genome"]),
        architecture=Architecture.from_json(attributes["architecture"]),
        evaluation=evaluation,
        reason=reason,
        duration=frozen.duration.total_seconds() if frozen.duration is not None else 0.0,
    )


def _prefixed(attributes: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value
        for name, value in attributes.items()
        if name.startswith(prefix)
    }
