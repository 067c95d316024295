"""Errors of the user and of the machine, and errors in words."""

from __future__ import annotations

import errno
from typing import Literal, TypeAlias


class InputError(ValueError):
    """A mistake in what the user gave, or a file that cannot be read or written.

    The message is one line that names the argument or the file, what was found, and what was
    expected. The command line prints it and exits with status 2.
    """


class MachineError(RuntimeError):
    """The machine failed: a device stopped working, or memory ran out several times in a row.

    The message is one line. The command line prints it and exits with status 2.
    """


MachineFailure: TypeAlias = Literal["device", "memory", "system"]
"""A device that fails until the process ends, memory that ran out, or a system call that failed."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")

# Of these a kernel is not started and the device goes on working.
_NOT_STARTED = (
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested",
)

_OF_THE_DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "HIP error")

# What CUDA says of errors after which every further call fails, in messages of the native module.
_STICKY = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable ECC error",
)


def machine_failure(error: BaseException) -> MachineFailure | None:
    """The kind of failure of the machine that an error reports; None for any other error.

    Errors of torch are told by their class names and messages, since torch raises most of them as
    RuntimeError.
    """
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        return "memory" if error.errno == errno.ENOMEM else "system"
    if not isinstance(error, RuntimeError):
        return None
    names = {kind.__name__ for kind in type(error).__mro__}
    message = str(error)
    if "OutOfMemoryError" in names or any(words in message for words in _OUT_OF_MEMORY):
        return "memory"
    if any(words in message for words in _NOT_STARTED):
        return None
    if "AcceleratorError" in names or any(w in message for w in (*_OF_THE_DEVICE, *_STICKY)):
        return "device"
    return None


def one_line(error: BaseException) -> str:
    """The message of an error as one line of at most 300 characters; its class if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
