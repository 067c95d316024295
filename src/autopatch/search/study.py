"""The record of a search: one Optuna study in an SQLite file, one trial per evaluation.

Optuna records every search, whichever library proposes (see `SAMPLERS`). To browse the record, run
`optuna-dashboard sqlite:///RUN/study.db`. A trial holds:

- the active genes as parameters, and the objectives as values;
- as user attributes, the genome, its place among the proposals, the architecture, the metrics
  ("metrics.AP") and some of them on resamples ("resampled.rwAP"), the timings ("timings.bank"),
  the values of the constraints ("bounded.latency") and what was in the cache ("reuse.images");
- after a failure, the user attribute "reason", and "failure" if the machine failed.

The study's user attributes are the settings of the search. A system attribute holds the numbers of
the trials whose genomes a resumed search evaluated again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autopatch.detector import Architecture
from autopatch.errors import InputError, MachineFailure, one_line
from autopatch.files import StrPath, new_file
from autopatch.genes import Choice
from autopatch.search.constraints import Constraint
from autopatch.search.evaluation import Evaluation
from autopatch.search.latency import LatencyTable
from autopatch.search.objectives import (
    DEFAULT_OBJECTIVES,
    Objective,
    checked_objectives,
    resolve_objectives,
)
from autopatch.search.optimizer import SAMPLERS
from autopatch.search.rules import RULES
from autopatch.search.space import Genome, SearchSpace
from autopatch.search.storage import (
    DATABASE_ERRORS,
    close_storage,
    connect,
    database_reason,
    is_of_the_system,
    open_storage,
    quiet,
    writing,
)
from autopatch.search.trials import Trial

INTERRUPTED = "interrupted"
NOT_FINISHED = "not finished"

_NAME = "autopatch"
_FORMAT = 7
_RETRIED = "autopatch:retried"
_GROUPS = 2  # maximum depth of groups in the settings; deeper objects are values


def check_settings(
    evaluations: int, seed: int, population: int, sampler: str, rule: str | None = None
) -> None:
    """Raises InputError if a setting of a plan is out of its range or unknown."""
    for name, value, least in (
        ("evaluations", evaluations, 1),
        ("seed", seed, 0),
        ("population", population, 2),
    ):
        if value < least:
            raise InputError(f"`{name}` is {value}, expected at least {least}")
    if seed >= 2**32:
        raise InputError(f"`seed` is {seed}, expected at most {2**32 - 1}")
    SAMPLERS[sampler]  # refuses an unknown one
    if rule is not None:
        RULES[rule]


@dataclass(frozen=True)
class Plan:
    """The settings of a search. They are stored with its record and must be the same on resume.

    Attributes:
        space: The search space.
        evaluations: Number of distinct architectures to evaluate, including failed ones. May be
            larger when the search is resumed.
        seed: Seed of the optimizer, from 0 to 2**32 - 1.
        population: Architectures per generation, at least 2. The search ends if the first
            `population` candidates all fail.
        initial: Architectures of `space` to evaluate first.
        sampler: The optimizer, a name in `SAMPLERS`.
        rule: How a candidate is picked, a name in `RULES`.
        objectives: What to minimize and maximize, the quality last.
        constraints: Bounds that the candidates of the front meet.
        latency_table: What the latency of candidates is read from; needed if an objective or a
            constraint is on it.
        settings: All other JSON values that influence the result, such as the hash of the weights
            and the versions of the software. Objects, nested up to two deep, are groups; messages
            name a setting without its group. Empty groups are ignored.
        unchecked: JSON values, such as the path of the data, that may differ when the search is
            resumed. The record then keeps the new values.

    Raises:
        InputError: If a value is out of its range.
        ValueError: If a key of `settings` is the name of another field.
    """

    space: SearchSpace
    evaluations: int
    seed: int = 0
    population: int = 12
    initial: Sequence[Architecture] = ()
    sampler: str = "gp"
    rule: str = "best"
    objectives: tuple[Objective, ...] = field(
        default_factory=lambda: resolve_objectives(DEFAULT_OBJECTIVES)
    )
    constraints: tuple[Constraint, ...] = ()
    latency_table: LatencyTable | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    unchecked: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self.evaluations, self.seed, self.population, self.sampler, self.rule)
        checked_objectives(self.objectives)
        if RULES[self.rule].needs_cost and self.objectives[0].is_maximized:
            raise InputError(
                f"`rule` is {self.rule!r}, but {self.objectives[0].name}, the first objective, is "
                "no cost, expected one that is minimized"
            )
        if self.latency_table is None:
            for objective in self.measured:
                if objective.needs_latency_table:
                    raise InputError(f"{objective.name!r} needs a latency table, but there is none")
        shadowed = self.settings.keys() & {"format", *(f.name for f in fields(self))}
        if shadowed:
            raise ValueError(f"settings hold {sorted(shadowed)}, which are fields of their own")

    @property
    def measured(self) -> tuple[Objective, ...]:
        """Everything that is measured on a candidate: the objectives, and what is bounded."""
        return (*self.objectives, *(constraint.objective for constraint in self.constraints))

    @property
    def total(self) -> int:
        """Largest number of architectures to evaluate: `evaluations`, or the size of the space if
        that is less."""
        return min(self.evaluations, self.space.size())

    def genomes(self) -> list[Genome]:
        """Canonical genomes of the initial architectures.

        Raises:
            InputError: If the space does not hold one.
        """
        return [self.space.encode(architecture) for architecture in self.initial]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, with `settings` merged into the other fields.

        Raises:
            InputError: If the space does not hold an initial architecture.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "settings"}
        values |= {
            "format": _FORMAT,
            "space": self.space.to_json(),
            "initial": self.genomes(),
            "objectives": [objective.to_json() for objective in self.objectives],
            "constraints": [constraint.to_json() for constraint in self.constraints],
            "latency_table": self.latency_table and self.latency_table.to_json(),
            "unchecked": dict(self.unchecked),
            **self.settings,
        }
        # Through JSON, so that tuples become lists, as in the stored settings.
        result: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
        return result


class Study:
    """A study open for writing; made by `Study.create` or `Study.resume`, closed by `with`.

    Attributes:
        path: The SQLite file.
        plan: The settings of the search.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        with _readable(path):  # its tables are new, or were checked when its settings were read
            self._storage = open_storage(path, skip_compatibility_check=True)
        try:
            with _readable(path):
                self._id = self._storage.get_study_id_from_name(_NAME)
                self._retried = _retried(self._storage, self._id)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: StrPath, plan: Plan) -> Study:
        """Creates an empty study. The file appears complete or not at all.

        Args:
            path: The SQLite file; must not exist, but its folder must.
            plan: The settings of the search.

        Raises:
            InputError: If the space does not hold an initial architecture, or the file exists or
                cannot be written.
        """
        path = Path(path)
        stored = plan.to_json()
        if path.exists():
            raise InputError(f"{path}: exists, expected a new file")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder, cannot write {path.name}")
        with new_file(path) as unfinished, quiet(), writing(path):
            storage = open_storage(unfinished, skip_compatibility_check=True)
            try:
                study = optuna.create_study(
                    study_name=_NAME,
                    storage=storage,
                    directions=[StudyDirection[o.direction.upper()] for o in plan.objectives],
                )
                study.set_metric_names([objective.name for objective in plan.objectives])
                for name, value in stored.items():
                    study.set_user_attr(name, value)
            finally:
                close_storage(storage)
        return cls(path, plan)

    @classmethod
    def resume(cls, path: StrPath, plan: Plan) -> Study:
        """Opens the study of an earlier search to continue it.

        Trials that a killed process left running are recorded as failed with the reason
        "interrupted", so no other process may be searching in this file. Failures of the machine at
        the end of the record no longer count, and the search evaluates their genomes again, once
        each.

        Raises:
            InputError: If there is no study, an earlier version of autopatch wrote it, it cannot be
                written, or the plan differs from the stored one. Only `unchecked` may differ, and
                `evaluations` may be larger.
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
        try:
            study._continue({k: given[k] for k in ("evaluations", "unchecked")}, stored)
        except BaseException:
            study.close()
            raise
        return study

    def _continue(self, given: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Records changed settings, and ends trials that an earlier process left running."""
        storage = self._storage
        with _readable(self.path):
            frozen = storage.get_all_trials(self._id)
        again = _last_failures_of_the_machine(frozen)
        with writing(self.path):
            for name, value in given.items():
                if stored.get(name) != value:
                    storage.set_study_user_attr(self._id, name, value)
            if again - self._retried.keys():
                self._retried |= {t.number: _genome(t) for t in frozen if t.number in again}
                storage.set_study_system_attr(self._id, _RETRIED, sorted(self._retried))
        self.interrupt()

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
        """Closes the file. The study can no longer be used."""
        close_storage(self._storage)

    def trials(self) -> tuple[Trial, ...]:
        """All trials by number.

        Raises:
            InputError: If the file cannot be read.
        """
        with _readable(self.path):
            return _trials(self._storage.get_all_trials(self._id), self._retried, self._names())

    def start(self, genome: Genome, place: int) -> int:
        """Records, in one transaction, that a canonical genome is being evaluated.

        Args:
            genome: The genome.
            place: Its place among all proposals, from 0.

        Returns:
            The number of the trial.

        Raises:
            InputError: If the file cannot be written.
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
        with writing(self.path):
            return self._storage.get_trial(self._storage.create_new_trial(self._id, running)).number

    def complete(self, number: int, evaluation: Evaluation) -> Trial:
        """Records the result of a running trial.

        Args:
            number: The trial.
            evaluation: The result, with a value for each objective.

        Raises:
            InputError: If the file cannot be written.
        """
        attributes: dict[str, Any] = {}
        attributes |= {f"metrics.{name}": value for name, value in evaluation.metrics.items()}
        attributes |= {f"timings.{name}": value for name, value in evaluation.timings.items()}
        attributes |= {f"bounded.{name}": value for name, value in evaluation.bounded.items()}
        attributes |= {f"reuse.{name}": value for name, value in evaluation.reuse.items()}
        attributes |= {f"resampled.{n}": list(values) for n, values in evaluation.resampled.items()}
        values = [evaluation.values[name] for name in self._names()]
        return self._finish(number, TrialState.COMPLETE, attributes, values)

    def fail(self, number: int, reason: str, failure: MachineFailure | None = None) -> Trial:
        """Records why a running trial has no result.

        Args:
            number: The trial.
            reason: Why, in one line.
            failure: How the machine failed; None if it did not. If a genome fails again after the
                search was resumed, the trial counts as a failed architecture unless the device
                failed.

        Raises:
            InputError: If the file cannot be read or written.
        """
        attributes = {"reason": reason}
        if failure == "device" or (failure is not None and not self._was_retried(number)):
            attributes["failure"] = failure
        return self._finish(number, TrialState.FAIL, attributes, None)

    def interrupt(self) -> None:
        """Records all running trials as interrupted; a resumed search evaluates them again.

        Raises:
            InputError: If the file cannot be read or written.
        """
        with _readable(self.path):
            running = self._storage.get_all_trials(self._id, states=(TrialState.RUNNING,))
        for trial in running:
            self.fail(trial.number, INTERRUPTED)

    def _was_retried(self, number: int) -> bool:
        with _readable(self.path):
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
            return _genome(self._storage.get_trial(trial_id)) in self._retried.values()

    def _finish(
        self,
        number: int,
        state: TrialState,
        attributes: Mapping[str, Any],
        values: Sequence[float] | None,
    ) -> Trial:
        # The state comes last: until then the trial counts as running, and a resumed search repeats
        # it.
        with writing(self.path):
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
            for name, value in attributes.items():
                self._storage.set_trial_user_attr(trial_id, name, value)
            self._storage.set_trial_state_values(trial_id, state, values)
            finished = self._storage.get_trial(trial_id)
        return _trials([finished], self._retried, self._names())[0]

    def _names(self) -> list[str]:
        return [objective.name for objective in self.plan.objectives]


@dataclass(frozen=True)
class StoredStudy:
    """What a study holds.

    Attributes:
        settings: What `Plan.to_json` returned.
        objectives: The objectives, registered or not.
        constraints: The constraints.
        latency_table: The latency table, if the search has one.
        trials: All trials by number, finished or not.
    """

    settings: dict[str, Any]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    latency_table: LatencyTable | None
    trials: tuple[Trial, ...]


def load_study(path: StrPath) -> StoredStudy:
    """Reads a stored study. Writes nothing.

    Raises:
        InputError: If the file is missing, cannot be read or is not the record of a search.
    """
    with _stored(path) as (storage, settings):
        objectives = checked_objectives(map(Objective.from_json, settings["objectives"]))
        names = [objective.name for objective in objectives]
        study_id = storage.get_study_id_from_name(_NAME)
        trials = _trials(storage.get_all_trials(study_id), _retried(storage, study_id), names)
        return StoredStudy(
            settings,
            objectives,
            tuple(map(Constraint.from_json, settings["constraints"])),
            stored_table(settings),
            trials,
        )


def stored_table(settings: Mapping[str, Any]) -> LatencyTable | None:
    """The latency table in the settings of a study; None if the search has none.

    Raises:
        InputError: It cannot be read.
    """
    document = settings.get("latency_table")
    return None if document is None else LatencyTable.from_json(document)


def load_trials(path: StrPath) -> tuple[Trial, ...]:
    """The trials of a stored study, see `load_study`."""
    return load_study(path).trials


def load_settings(path: StrPath) -> dict[str, Any]:
    """The settings of a stored study. Writes nothing.

    Returns:
        What `Plan.to_json` returned.

    Raises:
        InputError: If the file is missing, cannot be read or is not the record of a search.
    """
    with _stored(path) as (_, settings):
        return settings


def _difference(
    stored: Mapping[str, Any], given: Mapping[str, Any], space: SearchSpace
) -> tuple[str, str, str] | None:
    """The first setting that differs but must not: its name and both values, as text.

    Args:
        stored: The settings in the record.
        given: The settings of the resumed search.
        space: The space of `given`.
    """
    for was, is_now in zip(_decisive(stored), _decisive(given), strict=True):
        for key in (*was, *(key for key in is_now if key not in was)):
            if key not in was or key not in is_now or was[key] != is_now[key]:
                return key[-1], _said(was, key), _said(is_now, key)
    if given["evaluations"] < stored["evaluations"]:
        return "evaluations", str(stored["evaluations"]), str(given["evaluations"])
    # The spaces are equal here, so this one can read the stored genomes.
    for was, is_now in zip_longest(stored["initial"], given["initial"]):
        if was != is_now:
            one, other = (g and space.parameters(g) for g in (was, is_now))
            return "initial", _differing(one, other), _differing(other, one)
    return None


def _differing(values: dict[str, Choice] | None, other: dict[str, Choice] | None) -> str:
    """The values that are not in `other`, as text."""
    if values is None:
        return "nothing"
    known = (other or {}).items()
    return _short({name: value for name, value in values.items() if (name, value) not in known})


_View: TypeAlias = dict[tuple[str, ...], Any]


def _decisive(settings: Mapping[str, Any]) -> list[_View]:
    """The settings that must be the same on resume, except evaluations and initial architectures.

    The last part of each key is the public name of the setting. The views are compared in order,
    the most informative first. Display settings of objectives are left out.
    """
    apart = {
        "format",
        "unchecked",
        "objectives",
        "constraints",
        "latency_table",
        "space",
        "evaluations",
        "initial",
    }
    plain = {name: value for name, value in settings.items() if name not in apart}
    objectives, space = settings["objectives"], settings["space"]
    genes = space["genes"]
    return [
        {("rule",): settings["rule"]},
        _ungrouped(plain),
        {("objectives",): [objective["name"] for objective in objectives]},
        {(f"direction of {one['name']}",): one["direction"] for one in objectives},
        {("constraints",): {c["objective"]["name"]: c["bound"] for c in settings["constraints"]}},
        {("latency_table",): _digest(settings["latency_table"])},
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


def _digest(value: Any) -> str | None:
    """A hash that stands for a large setting in messages; None for None."""
    if value is None:
        return None
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _ungrouped(settings: Mapping[str, Any], depth: int = _GROUPS) -> _View:
    """The settings without their groups, sorted by name."""
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
    """Opens a file after checking that it holds the study of a search; yields its settings too."""
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
        if is_of_the_system(error):
            raise InputError(f"{path}: cannot be read: {one_line(error)}") from error
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
    """Turns errors of a damaged, foreign or inaccessible record into `InputError`."""
    try:
        yield
    except (
        *DATABASE_ERRORS,
        RuntimeError,  # tables of another Optuna version
        LookupError,  # trials or attributes that no search wrote
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, DATABASE_ERRORS) and is_of_the_system(error):
            raise InputError(f"{path}: cannot be read: {database_reason(error)}") from error
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
    if isinstance(found, int) and found < _FORMAT:
        raise InputError(f"{path}: a search of an earlier version of autopatch; search again")
    raise InputError(
        f"{path}: not a readable study of a search (format is {found!r}, expected {_FORMAT})"
    )


def _retried(storage: RDBStorage, study_id: int) -> dict[int, Genome]:
    """Genomes that a resumed search evaluates again after failures of the machine, by trial."""
    numbers = storage.get_study_system_attrs(study_id).get(_RETRIED, [])
    trials = storage.get_all_trials(study_id) if numbers else []
    return {trial.number: _genome(trial) for trial in trials if trial.number in numbers}


def _last_failures_of_the_machine(frozen: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the trials that failed because of the machine, with no result after them.

    If the search continued after such a failure, later proposals depend on it. Without a later
    result, no proposal depends on it, so the genome can be evaluated again.
    """
    numbers = set()
    finished = [trial for trial in frozen if trial.datetime_complete is not None]
    finished.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    for trial in reversed(finished):
        if trial.user_attrs.get("failure") is not None:
            numbers.add(trial.number)
        elif trial.user_attrs.get("reason") != INTERRUPTED:
            break
    return numbers


def _trials(
    frozen: Sequence[FrozenTrial], retried: Mapping[int, Genome], objectives: Sequence[str]
) -> tuple[Trial, ...]:
    """The trials of a record.

    Args:
        frozen: All trials by number, or only the last finished one.
        retried: See `_retried`.
        objectives: Names of the objectives.
    """
    again = _last_failures_of_the_machine(frozen) | retried.keys()
    return tuple(_trial(trial, trial.number not in again, objectives) for trial in frozen)


def _trial(frozen: FrozenTrial, counts: bool, objectives: Sequence[str]) -> Trial:
    attributes = frozen.user_attrs
    evaluation = None
    reason = None
    if frozen.state == TrialState.COMPLETE:
        evaluation = Evaluation(
            values=dict(zip(objectives, frozen.values, strict=True)),
            metrics=_prefixed(attributes, "metrics."),
            timings=_prefixed(attributes, "timings."),
            bounded=_prefixed(attributes, "bounded."),
            reuse=_prefixed(attributes, "reuse."),
            resampled={n: tuple(v) for n, v in _prefixed(attributes, "resampled.").items()},
        )
    elif frozen.state == TrialState.FAIL:
        reason = attributes.get("reason", "failed without a recorded reason")
    else:  # still running, or its process was killed
        reason = NOT_FINISHED
    failure = attributes.get("failure")
    return Trial(
        number=frozen.number,
        genome=_genome(frozen),
        architecture=Architecture.from_json(attributes["architecture"]),
        evaluation=evaluation,
        reason=reason,
        duration=frozen.duration.total_seconds() if frozen.duration is not None else 0.0,
        place=attributes["place"],
        failure=failure,
        counts=counts and failure != "device" and reason not in (INTERRUPTED, NOT_FINISHED),
    )


def _genome(frozen: FrozenTrial) -> Genome:
    return tuple(frozen.user_attrs["genome"])


def _prefixed(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in attributes.items()
        if name.startswith(prefix)
    }
