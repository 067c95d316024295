"""Errors that a user can cause."""


class InputError(ValueError):
    """A mistake in what the user gave: an argument, a file or a folder.

    The message is one line that names the argument or the file, says what was found and what
    was expected. The command line prints it and exits with status 2.
    """
