"""The command line: search, fit, predict, evaluate, report, check-data, info and demo.

It parses and prints; what a command does is one call of `autopatch.runs`, `autopatch.data` or
`autopatch.published`. A mistake of the user ends with one line on standard error and exit code 2,
an interrupted search with 130, a search in which every candidate failed with 1.
"""

from __future__ import annotations

import sys

from autopatch.errors import InputError

__all__ = ["main"]


def main() -> None:
    """Entry point of the `autopatch` command."""
    from autopatch.cli.app import app

    try:
        app()
    except InputError as error:
        print(f"autopatch: {error}", file=sys.stderr)
        sys.exit(2)
