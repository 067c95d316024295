"""Arguments of the package's functions, named as the command line names them.

Messages of the package put the name of an argument in backticks, as in `shots` or `resume=True`.
On the command line the same argument is --shots or --resume. Parameters of the commands have the
names of the arguments, whatever their options are called.
"""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from autopatch.errors import InputError

_ARGUMENT = re.compile(r"`(\w+)(?:=(True|False))?`")


class Command(TyperCommand):
    """A command whose errors and notes name arguments as the command line does."""

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


_options: dict[str, str] = {}  # of the command that runs, by the names of its parameters


def in_options(text: str) -> str:
    """A message with every argument in backticks as the option of the command that runs; arguments
    that the command does not have are left as they are."""

    def option(match: re.Match[str]) -> str:
        name = f"no_{match[1]}" if match[2] == "False" else match[1]
        return _options.get(name, match[0])

    return _ARGUMENT.sub(option, text)
