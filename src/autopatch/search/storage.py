"""Optuna's SQLite files, opened and closed for good, and Optuna without its log lines.

`open_storage` gives the studies of a file, `connect` its tables, `close_storage` lets go of it;
within `quiet` Optuna logs nothing.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines and no notes on experimental functions from Optuna."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """Opens an existing file; SQLite alone would make a missing one.

    Args:
        path: The file.
        mode: "rw", or "ro" to write nothing.
    """
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def open_storage(path: Path, *, mode: str = "rw", **options: Any) -> RDBStorage:
    """The studies of an existing file; `options` are those of `RDBStorage`."""
    # With a connection of our own, as in a URL a path that holds "?", "#" or "{" is misread.
    engine = {"creator": lambda: connect(path, mode=mode)}
    return RDBStorage("sqlite:///study.db", engine_kwargs=engine, **options)


def close_storage(storage: RDBStorage) -> None:
    """Lets go of the file."""
    storage.remove_session()
    storage.engine.dispose()
