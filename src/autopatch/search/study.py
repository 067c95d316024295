"""The record of a search: one Optuna study in an SQLite file, one trial an evaluation.

Optuna keeps the record whichever library proposes (see `SAMPLERS`), and
`optuna-dashboard sqlite:///RUN/study.db` opens it. A trial holds the active genes as parameters,
the objectives as values, and as user attributes the genome, its place among the proposals, the
architecture, every metric ("metrics.AP"), the timings ("timings.fit") or the reason of a failure;
the study's user attributes are the settings of the search.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import optuna
import sqlalchemy.exc
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autopatch.detector import Architecture
from autopatch.errors import InputError, one_line
from autopatch.files import StrPath, new_file
from autopatch.genes import Choice
from autopatch.search.evaluation import Evaluation
from autopatch.search.front import Trial
from autopatch.search.objectives import (
    DEFAULT_OBJECTIVES,
    Objective,
    checked_objectives,
    resolve_objectives,
)
from autopatch.search.optimizer import SAMPLERS
from autopatch.search.space import SearchSpace
from autopatch.search.storage import close_storage, connect, open_storage, quiet

INTERRUPTED = "interrupted"
NOT_FINISHED = "not finished"
WITHOUT_OUTCOME = (INTERRUPTED, NOT_FINISHED)
"""Reasons of trials that say nothing of their architecture."""

_NAME = "autopatch"
_FORMAT = 2
_GROUPS = 2  # how deep settings are grouped; objects below that are values


@dataclass(frozen=True)
class Plan:
    """What a search is to do, stored with its record; a resumed search has the same.

    Attributes:
        space: What is searched.
        evaluations: Distinct architectures to evaluate, failed ones counted; alone may grow when
            the search is resumed.
        seed: Seed of the optimizer, not negative.
        population: Architectures a generation, at least 2. If as many fail at the beginning, the
            search ends.
        initial: Architectures evaluated first; of `space`.
        sampler: The optimizer, a name in `SAMPLERS`.
        objectives: What is minimized and maximized, the quality last.
        settings: Whatever else decides the outcome (data, weights, versions, ...): values that
            JSON can hold. Objects, and objects in them, are groups: messages name the settings in
            them without the group. An empty group is as good as none.
        unchecked: What is stored beside that and may differ when the search is resumed, such as
            where the data lie: values that JSON can hold. The record then keeps the new ones.

    Raises:
        InputError: If a value is out of its range.
        ValueError: If `settings` hold one of the other names.
    """

    space: SearchSpace
    evaluations: int
    seed: int = 0
    population: int = 12
    initial: Sequence[Architecture] = ()
    sampler: str = "nsga2"
    objectives: tuple[Objective, ...] = field(
        default_factory=lambda: resolve_objectives(DEFAULT_OBJECTIVES)
    )
    settings: Mapping[str, Any] = field(default_factory=dict)
    unchecked: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("evaluations", 1), ("seed", 0), ("population", 2)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"`{name}` is {value}, expected at least {least}")
        if self.seed >= 2**32:
            raise InputError(f"`seed` is {self.seed}, expected at most {2**32 - 1}")
        SAMPLERS[self.sampler]  # refuses an unknown one
        checked_objectives(self.objectives)
        shadowed = self.settings.keys() & {"format", *(f.name for f in fields(self))}
        if shadowed:
            raise ValueError(f"settings hold {sorted(shadowed)}, which are fields of their own")

    def genomes(self) -> list[tuple[int, ...]]:
        """Canonical genomes of the initial architectures.

        Raises:
            InputError: If the space does not hold one.
        """
        return [self.space.encode(architecture) for architecture in self.initial]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, `settings` beside the other fields.

        Raises:
            InputError: If the space does not hold an initial architecture.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "settings"}
        values |= {
            "format": _FORMAT,
            "space": self.space.to_json(),
            "initial": self.genomes(),
            "objectives": [objective.to_json() for objective in self.objectives],
            "unchecked": dict(self.unchecked),
            **self.settings,
        }
        # Through JSON, so that tuples and lists compare equal to what the file gives back.
        result: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
        return result


class Study:
    """A study open for writing; made by `Study.create` or `Study.resume`, closed by `with`.

    Attributes:
        path: The SQLite file.
        plan: What the search is to do.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self._storage = open_storage(path)
        self._id = self._storage.get_study_id_from_name(_NAME)

    @classmethod
    def create(cls, path: StrPath, plan: Plan) -> Study:
        """A new, empty study; the file appears complete or not at all.

        Args:
            path: The SQLite file; its folder exists, the file does not.
            plan: What the search is to do.

        Raises:
            InputError: If the space does not hold an initial architecture, the file exists or
                cannot be written.
        """
        path = Path(path)
        stored = plan.to_json()
        if path.exists():
            raise InputError(f"{path}: exists, expected a new file")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder, cannot write {path.name}")
        with new_file(path) as unfinished, quiet():
            storage = open_storage(unfinished)
            study = optuna.create_study(
                study_name=_NAME,
                storage=storage,
                directions=[StudyDirection[o.direction.upper()] for o in plan.objectives],
            )
            study.set_metric_names([objective.name for objective in plan.objectives])
            for name, value in stored.items():
                study.set_user_attr(name, value)
            close_storage(storage)
        return cls(path, plan)

    @classmethod
    def resume(cls, path: StrPath, plan: Plan) -> Study:
        """The study of an earlier search, to go on with.

        Trials left running by a killed process become failed ones with the reason "interrupted",
        so no other process may be searching in this file.

        Raises:
            InputError: If there is no study, if it is one of an earlier version of autopatch, or if
                the plan differs from the stored one in more than a larger number of evaluations
                and `unchecked`.
        """
        path = Path(path)
        given = plan.to_json()
        stored = load_settings(path)
        with _readable(path):
            difference = _difference(stored, given, plan.space)
        if difference is not None:
            name, before, now = difference
            raise InputError(
                f"{path}: the search was started with `{name}` = {before}, cannot resume it with "
                f"{now}"
            )
        study = cls(path, plan)
        for name in ("evaluations", "unchecked"):
            if stored.get(name) != given[name]:
                study._storage.set_study_user_attr(study._id, name, given[name])
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
        close_storage(self._storage)

    def trials(self) -> tuple[Trial, ...]:
        """All trials by number."""
        names = self._names()
        return tuple(_trial(frozen, names) for frozen in self._storage.get_all_trials(self._id))

    def start(self, genome: tuple[int, ...], place: int) -> int:
        """Records, in one transaction, that a canonical genome is being evaluated.

        Args:
            genome: The genome.
            place: Its place among all that were proposed, from 0.

        Returns:
            The trial's number.
        """
        space = self.plan.space
        parameters = space.parameters(genome)
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=parameters,
            distributions={
                gene.name: CategoricalDistribution(gene.choices)
                for gene in space.genes
                if gene.name in parameters
            },
            user_attrs={
                "genome": list(genome),
                "place": place,
                "architecture": space.decode(genome).to_json(),
            },
        )
        return self._storage.get_trial(self._storage.create_new_trial(self._id, running)).number

    def complete(self, number: int, evaluation: Evaluation) -> Trial:
        """Records the result of a running trial, which has a value for each objective."""
        attributes = {f"metrics.{name}": value for name, value in evaluation.metrics.items()}
        attributes |= {f"timings.{name}": value for name, value in evaluation.timings.items()}
        values = [evaluation.values[name] for name in self._names()]
        return self._finish(number, TrialState.COMPLETE, attributes, values)

    def fail(self, number: int, reason: str) -> Trial:
        """Records why a running trial has no result."""
        return self._finish(number, TrialState.FAIL, {"reason": reason}, None)

    def _finish(
        self,
        number: int,
        state: TrialState,
        attributes: Mapping[str, Any],
        values: Sequence[float] | None,
    ) -> Trial:
        # The state comes last: until then the trial is running and a resumed search repeats it.
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, state, values)
        return _trial(self._storage.get_trial(trial_id), self._names())

    def _names(self) -> list[str]:
        return [objective.name for objective in self.plan.objectives]


def load_trials(path: StrPath) -> tuple[Trial, ...]:
    """All trials of a stored study by number, finished or not; writes nothing.

    Raises:
        InputError: If the file is missing or is not the record of a search.
    """
    with _stored(path) as (storage, settings):
        names = [objective.name for objective in _objectives(settings)]
        frozen = storage.get_all_trials(storage.get_study_id_from_name(_NAME))
        return tuple(_trial(trial, names) for trial in frozen)


def load_objectives(path: StrPath) -> tuple[Objective, ...]:
    """The objectives of a stored study, registered or not; writes nothing.

    Raises:
        InputError: If the file is missing or is not the record of a search.
    """
    with _stored(path) as (_, settings):
        return _objectives(settings)


def load_settings(path: StrPath) -> dict[str, Any]:
    """The settings that a stored study was started with; writes nothing.

    Returns:
        What `Plan.to_json` gave.

    Raises:
        InputError: If the file is missing or is not the record of a search.
    """
    with _stored(path) as (_, settings):
        return settings


def _objectives(settings: Mapping[str, Any]) -> tuple[Objective, ...]:
    return checked_objectives(map(Objective.from_json, settings["objectives"]))


def _difference(
    stored: Mapping[str, Any], given: Mapping[str, Any], space: SearchSpace
) -> tuple[str, str, str] | None:
    """Name and both values of the first setting that must not differ and does, in a user's words.

    Args:
        stored: What the record holds.
        given: What the search is to be resumed with.
        space: That of `given`.
    """
    for was, is_now in zip(_decisive(stored), _decisive(given), strict=True):
        for key in (*is_now, *(key for key in was if key not in is_now)):
            if key not in was or key not in is_now or was[key] != is_now[key]:
                return key[-1], _said(was, key), _said(is_now, key)
    if given["evaluations"] < stored["evaluations"]:
        return "evaluations", str(stored["evaluations"]), str(given["evaluations"])
    # The space is the same here, so the stored genomes can be read with it.
    for was, is_now in zip_longest(stored["initial"], given["initial"]):
        if was != is_now:
            one, other = (g and space.parameters(g) for g in (was, is_now))
            return "initial", _differing(one, other), _differing(other, one)
    return None


def _differing(values: dict[str, Choice] | None, other: dict[str, Choice] | None) -> str:
    """The values that `other` has not, as text."""
    if values is None:
        return "nothing"
    known = (other or {}).items()
    return _short({name: value for name, value in values.items() if (name, value) not in known})


_View: TypeAlias = dict[tuple[str, ...], Any]


def _decisive(settings: Mapping[str, Any]) -> list[_View]:
    """What must be the same when a search is resumed, but for evaluations and initial
    architectures: values by keys whose last part is what a user calls them. What tells most of a
    difference comes first. How objectives are displayed is no part of it.
    """
    apart = {"format", "unchecked", "objectives", "space", "evaluations", "initial"}
    plain = {name: value for name, value in settings.items() if name not in apart}
    objectives, space = settings["objectives"], settings["space"]
    genes = space["genes"]
    return [
        _ungrouped(plain),
        {("objectives",): [objective["name"] for objective in objectives]},
        {(f"direction of {one['name']}",): one["direction"] for one in objectives},
        {
            ("space",): space["name"],
            **{(key.rpartition(".")[2],): value for key, value in space["fixed"].items()},
            **{(gene["name"],): gene["choices"] for gene in genes},
        },
        {("genes",): [gene["name"] for gene in genes], ("fixed",): space["fixed"]},
        {
            (f"{attribute} of gene {gene['name']}",): value
            for gene in genes
            for attribute, value in gene.items()
        },
    ]


def _ungrouped(settings: Mapping[str, Any], depth: int = _GROUPS) -> _View:
    """The settings out of their groups, in order of name."""
    found: _View = {}
    for name, value in sorted(settings.items()):
        if depth and isinstance(value, dict):
            inner = _ungrouped(value, depth - 1)
            found |= {(name, *key): setting for key, setting in inner.items()}
        else:
            found[name,] = value
    return found


def _said(values: _View, key: tuple[str, ...]) -> str:
    return _short(values[key]) if key in values else "nothing"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@contextmanager
def _stored(path: StrPath) -> Iterator[tuple[RDBStorage, dict[str, Any]]]:
    """Opens an existing study, having made sure that it is one; gives its settings as well."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the study of a search")
    # RDBStorage would add its tables to a foreign database.
    try:
        connection = connect(path, mode="rw")
        try:
            names = [row[0] for row in connection.execute("SELECT study_name FROM studies")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InputError(f"{path}: not the study of a search ({error})") from None
    if _NAME not in names:
        raise InputError(f"{path}: holds the studies {names}, expected {_NAME!r} among them")
    with _readable(path):
        storage = open_storage(path)
    try:
        with _readable(path):
            settings = storage.get_study_user_attrs(storage.get_study_id_from_name(_NAME))
        _check_format(path, settings)
        with _readable(path):
            yield storage, settings
    finally:
        close_storage(storage)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of a damaged or foreign record become those of the user."""
    try:
        yield
    except (
        sqlalchemy.exc.SQLAlchemyError,
        StorageInternalError,
        RuntimeError,  # tables of another Optuna version
        LookupError,  # trials or attributes that no search wrote
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{path}: not a readable study of a search ({one_line(error)})") from None


def _check_format(path: Path, settings: Mapping[str, Any]) -> None:
    found = settings.get("format")
    if found == _FORMAT:
        return
    if found is None and "space" in settings:
        raise InputError(
            f"{path}: a search of an earlier version of autopatch; search again, or read it with "
            "autopatch 0.1"
        )
    raise InputError(
        f"{path}: not a readable study of a search (format is {found!r}, expected {_FORMAT})"
    )


def _trial(frozen: FrozenTrial, objectives: Sequence[str]) -> Trial:
    attributes = frozen.user_attrs
    evaluation = None
    reason = None
    if frozen.state == TrialState.COMPLETE:
        evaluation = Evaluation(
            values=dict(zip(objectives, frozen.values, strict=True)),
            metrics=_prefixed(attributes, "metrics."),
            timings=_prefixed(attributes, "timings."),
        )
    elif frozen.state == TrialState.FAIL:
        reason = attributes.get("reason", "failed without a recorded reason")
    else:  # being evaluated now, or by a process that was killed
        reason = NOT_FINISHED
    return Trial(
        number=frozen.number,
        genome=tuple(attributes["genome"]),
        architecture=Architecture.from_json(attributes["architecture"]),
        evaluation=evaluation,
        reason=reason,
        duration=frozen.duration.total_seconds() if frozen.duration is not None else 0.0,
        place=attributes["place"],
    )


def _prefixed(attributes: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value
        for name, value in attributes.items()
        if name.startswith(prefix)
    }
