"""Reads the study databases published with AutoPatch, written by Optuna 3.1."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autopatch.detector import Architecture
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.genes import Choice
from autopatch.published.flops import PublishedCost
from autopatch.published.once_for_all import backbone_cost, block_names, describe_setting
from autopatch.search import SearchSpace
from autopatch.search.storage import (
    DATABASE_ERRORS,
    close_storage,
    connect,
    database_reason,
    open_storage,
    quiet,
)

_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
_TABLES = {"alembic_version", "studies", "trials", "version_info"}


@dataclass(frozen=True)
class PublishedTrial:
    """A finished trial of a published study.

    Attributes:
        study: Name of the study.
        number: Number of the trial in the study, from 0.
        architecture: The decoded parameters.
        flops: The first objective value: FLOPs of the backbone per image.
        rwap: The second objective value, called wAP in the database.
        metrics: Numeric user attributes by name, such as "test_wAP".
    """

    study: str
    number: int
    architecture: Architecture
    flops: int
    rwap: float
    metrics: Mapping[str, float]

    @property
    def cost(self) -> PublishedCost:
        """The backbone's cost per image, counted as published."""
        return backbone_cost(self.architecture.backbone, self.architecture.input.size)

    def describe(self) -> str:
        """A short description such as "224 px, w1.2, kernels 7 3, ratios 6 4, block 2 p3 + block 7
        p5, all patches"."""
        backbone = self.architecture.backbone
        head = self.architecture.head.describe(block_names(backbone))
        return f"{self.architecture.input.size} px, {describe_setting(backbone)}, {head}"


@dataclass(frozen=True)
class PublishedTrials:
    """The trials of a database.

    Attributes:
        trials: The finished trials, by study, then by number.
        others: Number of failed or unfinished trials.
    """

    trials: tuple[PublishedTrial, ...]
    others: int


def load_published(
    path: StrPath,
    space: SearchSpace | None = None,
    *,
    studies: Collection[str] | None = None,
    fixed: Mapping[str, Choice] | None = None,
) -> PublishedTrials:
    """Reads a published database. The file is not changed.

    Args:
        path: The SQLite file.
        space: The space of the trials; `autopatch.published.space.published_space()` if None.
        studies: Names of the studies to read; None for all.
        fixed: Values of parameters that a study did not search, with names as in
            `SearchSpace.by_gene`. A trial's own parameters override them.

    Raises:
        InputError: The file is missing or cannot be read, was written by another version of Optuna,
            lacks a study, or has a trial outside the space.
    """
    from autopatch.published.space import published_space

    path = Path(path)
    space = published_space() if space is None else space
    space.narrowed(fixed or {})  # checks names and values
    absent = space.by_gene(fixed or {})
    trials: list[PublishedTrial] = []
    others = 0
    with _opened(path) as storage:
        for name in _names(path, storage, studies):
            study_id = storage.get_study_id_from_name(name)
            directions = storage.get_study_directions(study_id)
            if list(directions) != _DIRECTIONS:
                raise InputError(
                    f"{path}: study {name} has the directions {[d.name for d in directions]}, "
                    f"expected {[d.name for d in _DIRECTIONS]} (FLOPs and wAP)"
                )
            for frozen in storage.get_all_trials(study_id, deepcopy=False):
                if frozen.state != TrialState.COMPLETE:
                    others += 1
                    continue
                try:
                    trials.append(_trial(name, frozen, space, absent))
                except InputError as error:
                    raise InputError(
                        f"{path}: study {name}, trial {frozen.number}: {error}"
                    ) from None
    return PublishedTrials(tuple(trials), others)


def _trial(
    study: str, frozen: FrozenTrial, space: SearchSpace, absent: Mapping[str, Choice]
) -> PublishedTrial:
    parameters = {**absent, **frozen.params}
    names = [gene.name for gene in space.genes]
    missing = [name for name in names if name not in parameters]
    if missing and parameters.keys() <= set(names):
        raise InputError(
            f"it has no {missing[0]}; give values that the study did not search with `fixed`"
        )
    architecture = space.decode(space.genome(parameters))
    if len(frozen.values or ()) != len(_DIRECTIONS):
        raise InputError(f"its values are {frozen.values}, expected FLOPs and wAP")
    flops, rwap = frozen.values
    if not 0.0 <= flops < 2**53 or not flops.is_integer():
        raise InputError(f"FLOPs are {flops}, expected an integer from 0")
    if not 0.0 <= rwap <= 1.0:
        raise InputError(f"wAP is {rwap}, expected a value in [0, 1]")
    return PublishedTrial(
        study=study,
        number=frozen.number,
        architecture=architecture,
        flops=int(flops),
        rwap=rwap,
        metrics={
            name: float(value)
            for name, value in frozen.user_attrs.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )


def _names(path: Path, storage: RDBStorage, wanted: Collection[str] | None) -> list[str]:
    names = optuna.get_all_study_names(storage)
    unknown = sorted(set(wanted or ()) - set(names))
    if unknown:
        raise InputError(f"{path}: has no study {unknown[0]!r}, expected one of {names}")
    return [name for name in names if wanted is None or name in wanted]


@contextmanager
def _opened(path: Path) -> Iterator[RDBStorage]:
    _check_file(path)
    try:
        with quiet():
            storage = open_storage(path, mode="ro", skip_compatibility_check=True)
        try:
            _check_version(path, storage)
            yield storage
        finally:
            close_storage(storage)
    except InputError:  # is a ValueError, with a better message
        raise
    except (*DATABASE_ERRORS, LookupError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable study database ({database_reason(error)})"
        ) from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a published study database")
    try:
        connection = connect(path, mode="ro")
        try:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InputError(f"{path}: not a readable SQLite database ({error})") from None
    if not tables >= _TABLES:
        raise InputError(
            f"{path}: an SQLite database without Optuna's tables {sorted(_TABLES - tables)}"
        )


def _check_version(path: Path, storage: RDBStorage) -> None:
    current, head = storage.get_current_version(), storage.get_head_version()
    if current == head:
        return
    advice = "update Optuna"
    if current in storage.get_all_versions():
        old = path.resolve()
        new = old.with_stem(f"{old.stem}-upgraded")
        advice = (
            f"run `cp {quote(str(old))} {quote(str(new))} && optuna storage upgrade --storage "
            f"{quote(f'sqlite:///{new}')}`, and read the copy"
        )
    raise InputError(
        f"{path}: written by another version of Optuna (tables {current}, expected {head} of "
        f"Optuna {optuna.__version__}); {advice}"
    )
