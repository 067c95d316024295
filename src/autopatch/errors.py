"""Errors that a user can cause, and errors in words."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave: an argument, a file or a folder.

    The message is one line that names the argument or the file, says what was found and what
    was expected. The command line prints it and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """What an error says, as one line of at most 300 characters; its class if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
