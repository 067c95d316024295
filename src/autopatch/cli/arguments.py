"""Replaces argument names in messages with option names.

Messages of the package put argument names in backticks, as in `shots` or `resume=True`. On the
command line these are --shots and --resume. The parameters of the command functions have the names
of the arguments; their options may have other names.
"""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from autopatch.errors import InputError

_ARGUMENT = re.compile(r"`(\w+)(?:=(True|False))?`")


class Command(TyperCommand):
    """A command whose errors and notes name options instead of arguments."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        _options.clear()
        for parameter in self.params:
            _options[str(parameter.name)] = (
                str(parameter.metavar)
                if parameter.param_type_name == "argument"
                else max(parameter.opts, key=len)
            )
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise InputError(in_options(str(error))) from error


_options: dict[str, str] = {}  # options of the running command, by parameter name


def in_options(text: str) -> str:
    """Replaces arguments in backticks with options of the running command; arguments without an
    option stay unchanged."""

    def option(match: re.Match[str]) -> str:
        name = f"no_{match[1]}" if match[2] == "False" else match[1]
        return _options.get(name, match[0])

    return _ARGUMENT.sub(option, text)
