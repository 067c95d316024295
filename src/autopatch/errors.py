"""User errors, machine errors, and error messages on one line."""

from __future__ import annotations

import errno
from typing import Literal, TypeAlias


class InputError(ValueError):
    """An argument is wrong, or a file cannot be read or written.

    The message is one line. It names the argument or the file, what was found, and what was
    expected. The command line prints it and exits with status 2.
    """


class MachineError(RuntimeError):
    """The machine failed: a device stopped working, or several calls in a row ran out of memory or
    met a system error.

    The message is one line. The command line prints it and exits with status 2.
    """


MachineFailure: TypeAlias = Literal["device", "memory", "system"]
"""The device fails until the process ends, memory ran out, or a system call failed."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")

# After these errors one operation was refused, and the device still works.
_REFUSED = (
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested",
    "STATUS_BAD_PARAM",
    "STATUS_INVALID_VALUE",
    "STATUS_NOT_SUPPORTED",
)

_OF_THE_DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "HIP error")

# CUDA errors after which every further call fails, as the native module words them.
_STICKY = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable ECC error",
    "no kernel image is available",
)


def machine_failure(error: BaseException) -> MachineFailure | None:
    """The kind of machine failure that an error reports; None for any other error.

    Errors of torch are recognized by class name and message, because torch raises most of them as
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
    if any(words in message for words in _REFUSED):
        return None
    if "AcceleratorError" in names or any(w in message for w in (*_OF_THE_DEVICE, *_STICKY)):
        return "device"
    return None


def reason(error: BaseException) -> str:
    """The system's words for a failed call, such as "Permission denied"; for any other error, its
    message on one line."""
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)


def one_line(error: BaseException) -> str:
    """The error's message on one line, at most 300 characters; the class name if it is empty."""
    return " ".join(str(error).split())[:300] or type(error).__name__
