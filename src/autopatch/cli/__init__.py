"""The command line: search, fit, predict, evaluate, report, check-data, info and demo.

It parses and prints; what a command does is one call of `autopatch.runs`, `autopatch.data` or
`autopatch.published`. Exit codes:

- 0: the command is done.
- 1: every candidate of a search failed.
- 2: a mistake of the user, or a failure of the system such as a full disk.
- 130: interrupted.

All but 0 come with one line on standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from autopatch.errors import InputError, MachineError, machine_failure, one_line

__all__ = ["main"]


def main() -> None:
    """Entry point of the `autopatch` command."""
    try:
        from autopatch.cli.app import app

        try:
            app()
        except SystemExit:
            sys.stdout.flush()  # so that a full disk is noticed here
            raise
    except KeyboardInterrupt:
        _end(130, "interrupted")
    except BrokenPipeError:  # such as that of `autopatch info | head -1`
        _end(1)
    except Exception as error:
        line = _in_words(error)
        if line is None:
            raise
        _end(2, line)


def _in_words(error: Exception) -> str | None:
    """One line for an error of the user or of the system; None for a fault of the program."""
    if isinstance(error, InputError | MachineError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.strerror:
        named = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
        return ": ".join([*map(str, named), error.strerror])
    failure = machine_failure(error)
    if failure == "memory":
        return f"out of memory: {one_line(error)}"
    if failure is not None or isinstance(error, UnicodeError) or _is_of_database(error):
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def _is_of_database(error: Exception) -> bool:
    from autopatch.search.storage import DATABASE_ERRORS  # late, as it takes long

    return isinstance(error, DATABASE_ERRORS)


def _end(code: int, line: str | None = None) -> NoReturn:
    if line is not None:
        with contextlib.suppress(OSError):
            print(f"autopatch: {line}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would flush again at its end, and report that it cannot
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
