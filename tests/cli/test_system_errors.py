"""Failures of the system that end a command: one line and an exit code."""

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy.exc
import torch
from optuna.exceptions import StorageInternalError

from autopatch.cli import main
from autopatch.errors import MachineError


def of_optuna(reason):
    """What Optuna raises if SQLite fails."""
    error = StorageInternalError("An exception is raised during the commit. This typically")
    error.__cause__ = sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError(reason))
    return error


@pytest.fixture
def ends(autopatch, monkeypatch):
    """Runs a command that raises an error."""

    def run(error):
        def fail():
            raise error

        monkeypatch.setattr("autopatch.runs.system_info", fail)
        code, _, err = autopatch("info")
        return code, err

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("12 requested and 0 written"), "OSError: 12 requested and 0 written"),
        (
            UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"),
            "UnicodeEncodeError: 'utf-8' codec can't encode character '\\udc80' in position 0: "
            "surrogates not allowed",
        ),
        (MemoryError("Unable to\nallocate"), "out of memory: Unable to allocate"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: CUDA out of memory."),
        (
            RuntimeError("CUDA error: device-side assert triggered"),
            "RuntimeError: CUDA error: device-side assert triggered",
        ),
        (MachineError("trial 1: the device failed"), "trial 1: the device failed"),
        (sqlite3.OperationalError("disk I/O error"), "OperationalError: disk I/O error"),
        (sqlalchemy.exc.TimeoutError("no\nanswer"), "TimeoutError: no answer"),
        (StorageInternalError("commit"), "StorageInternalError: commit"),
        (of_optuna("disk I/O error"), "StorageInternalError: disk I/O error"),
    ],
)
def test_system_errors(ends, error, line):
    assert ends(error) == (2, f"autopatch: {line}\n")


def test_an_interrupted_command(ends):
    assert ends(KeyboardInterrupt()) == (130, "autopatch: interrupted\n")


def test_a_fault_of_the_program_keeps_its_traceback(ends):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        ends(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_closed_standard_output(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["autopatch", "check-data", "nowhere"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("autopatch: nowhere")


def test_a_full_disk_behind_standard_output():
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "autopatch", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr) == (2, "autopatch: No space left on device\n")
