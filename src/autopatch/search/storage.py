"""Opening, closing and writing Optuna's SQLite files; silencing Optuna.

`open_storage` opens the studies of a file and `connect` its tables; `close_storage` closes it.
`writing` turns database errors into `InputError`. `quiet` turns Optuna's log off.
"""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from autopatch.errors import InputError, one_line

NO_LOCKS = ".no-locks"
"""A file of this name beside a database marks a file system that cannot lock files."""

DATABASE_ERRORS = (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, StorageInternalError)
"""Errors that SQLite, SQLAlchemy and Optuna raise if a database cannot be read or written."""

# SQLite messages about the system rather than the content of the file.
_OF_THE_SYSTEM = (
    "database is locked",
    "database or disk is full",
    "disk I/O error",
    "locking protocol",
    "out of memory",
    "readonly database",
    "unable to open database file",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Turns off Optuna's log lines and its warnings about experimental functions."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """Opens an existing file; by default SQLite would create a missing one.

    Args:
        path: The file.
        mode: "rw", or "ro" for read-only.
    """
    file = path.resolve()
    nolock = "&nolock=1" if (file.parent / NO_LOCKS).exists() else ""
    uri = f"{file.as_uri()}?mode={mode}{nolock}"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def open_storage(path: Path, *, mode: str = "rw", **options: Any) -> RDBStorage:
    """Opens the studies of an existing file; `options` are passed to `RDBStorage`."""
    # `connect` instead of a URL, because URLs misread paths that hold "?", "#" or "{".
    engine = {"creator": lambda: connect(path, mode=mode)}
    return RDBStorage("sqlite:///study.db", engine_kwargs=engine, **options)


def close_storage(storage: RDBStorage) -> None:
    """Closes the file and ignores errors: all records are committed by then."""
    with contextlib.suppress(*DATABASE_ERRORS):
        storage.remove_session()
    with contextlib.suppress(*DATABASE_ERRORS):
        storage.engine.dispose()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns database errors into `InputError`: the file cannot be written.

    Args:
        path: The file, for the message.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        raise InputError(f"{path}: cannot be written: {database_reason(error)}") from error


def database_reason(error: BaseException) -> str:
    """SQLite's own message, without the additions of SQLAlchemy and Optuna."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlite3.Error):
            return one_line(cause)
        cause = getattr(cause, "orig", None) or cause.__cause__
    return one_line(error)


def is_of_the_system(error: BaseException) -> bool:
    """Whether a database error comes from the system, such as a lock, and not from the file's
    content."""
    reason = database_reason(error)
    return any(words in reason for words in _OF_THE_SYSTEM)
