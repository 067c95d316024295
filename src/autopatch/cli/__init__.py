"""The command line: search, fit, predict, evaluate, report, import-study, check-data, info and
demo.

It parses arguments and prints results. The work of each command is one call of `autopatch.runs`,
`autopatch.data` or `autopatch.published`. Exit codes:

- 0: success.
- 1: every candidate of a search failed, or standard output was closed.
- 2: a user's mistake, or a system failure such as a full disk.
- 130: interrupted.

All codes except 0 come with one line on standard error, except that a closed output ends quietly
and an unknown option also prints the usage.
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
            if sys.stdout is not None:
                sys.stdout.flush()  # reports a full disk here
            raise
    except KeyboardInterrupt:
        _end(130, "interrupted")
    except BrokenPipeError:  # as in `autopatch info | head -1`
        _end(1)
    except Exception as error:
        line = _in_words(error)
        if line is None:
            raise
        _end(2, line)


def _in_words(error: Exception) -> str | None:
    """The message, in one line, for a user or system error; None for a bug."""
    if isinstance(error, InputError | MachineError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.strerror:
        named = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
        return ": ".join([*map(str, named), error.strerror])
    failure = machine_failure(error)
    if failure == "memory":
        return f"out of memory: {one_line(error)}"
    if failure is not None or isinstance(error, UnicodeError):
        return f"{type(error).__name__}: {one_line(error)}"
    from autopatch.search.storage import DATABASE_ERRORS, database_reason  # slow import

    if isinstance(error, DATABASE_ERRORS):
        return f"{type(error).__name__}: {database_reason(error)}"
    return None


def _end(code: int, line: str | None = None) -> NoReturn:
    if line is not None:
        with contextlib.suppress(OSError):
            print(f"autopatch: {line}", file=sys.stderr)
    try:
        if sys.stdout is not None:  # as after `>&-`
            sys.stdout.flush()
    except OSError:  # Python would flush again at exit, and report the failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
