"""Notes, tables and progress bars of the commands."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from autopatch.cli.arguments import in_options
from autopatch.progress import Progress

console = Console(highlight=False, emoji=False)
_errors = Console(stderr=True, highlight=False, emoji=False)


class _Notes(logging.Handler):
    """Prints log records of the package as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def prepare() -> None:
    """Prints log records as notes, and unencodable characters as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error does by default
        sys.stdout.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("autopatch")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())


def note(text: str) -> None:
    """Prints a line of plain text, without markup; argument names become options."""
    console.print(in_options(text), markup=False, soft_wrap=True)


def failure(text: str) -> None:
    """Prints a line on standard error; argument names become options."""
    _errors.print(f"autopatch: {in_options(text)}", markup=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table. The first column is text; the others are numbers."""
    result = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        if i == 0:
            result.add_column(column, overflow="fold")
        else:
            # Numbers are never cut; headings may wrap.
            width = max((len(row[i]) for row in rows), default=0)
            longest_word = max((len(word) for word in column.split()), default=0)
            result.add_column(column, justify="right", min_width=max(width, longest_word))
    for row in rows:
        result.add_row(*row)
    console.print(result, markup=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows a progress bar for each step, with elapsed and remaining time.

    If a step starts again, its times restart.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        tasks = {}

        def report(step: str, done: int, total: int) -> None:
            name = step.partition(":")[0]
            if name not in tasks:
                tasks[name] = bar.add_task(step, completed=done)
            elif done < bar.tasks[tasks[name]].completed:
                bar.reset(tasks[name])
            bar.update(tasks[name], description=step, completed=done, total=total)

        yield report
