"""Devices, and the instruction sets of the native module."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from autopatch import _C
from autopatch.errors import InputError, one_line


@dataclass(frozen=True)
class NativeInfo:
    """The native module and the machine it runs on.

    Attributes:
        cuda_built: Whether the CUDA kernels were built.
        cuda_reason: Why they were not built; empty if they were.
        detected_isa: The best instruction set of the CPU.
        active_isa: The instruction set in use; AUTOPATCH_ISA may lower it.
    """

    cuda_built: bool
    cuda_reason: str
    detected_isa: str
    active_isa: str


def native_info() -> NativeInfo:
    """The instruction sets of the native module, and whether it has CUDA kernels."""
    return NativeInfo(_C.cuda_built, _C.cuda_reason, _C.detected_isa(), _C.active_isa())


def usable_device(device: str | torch.device) -> torch.device:
    """The device with a name, if kernels can run on it.

    Args:
        device: "cpu", "cuda" or "cuda:<number>".

    Raises:
        InputError: There is no such device, or kernels cannot run on it.
    """
    text = str(device)
    kind, _, number = text.partition(":")
    if not re.fullmatch("cpu|cuda(:(0|[1-9][0-9]*))?", text):
        raise InputError(f"`device` is '{text}', expected 'cpu', 'cuda' or 'cuda:<number>'")
    if kind == "cuda":
        if not _C.cuda_built:
            raise InputError(
                f"`device` is '{text}', but autopatch was built without CUDA: {_C.cuda_reason}"
            )
        if not torch.cuda.is_available():
            raise InputError(f"`device` is '{text}', but torch finds no usable GPU")
        if int(number or 0) >= torch.cuda.device_count():
            raise InputError(
                f"`device` is '{text}', but the last GPU is cuda:{torch.cuda.device_count() - 1}"
            )
        _run_a_kernel(torch.device(text))
    return torch.device(text)


def _run_a_kernel(device: torch.device) -> None:
    """Raises InputError if this build has no kernels for the generation of a GPU."""
    try:
        torch.ops.autopatch.aggregate_patches(
            [torch.zeros(1, 1, 1, 1, device=device)], [1], 1, 1, 0
        )
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise InputError(
            f"`device` is '{device}', but the kernels do not run on this GPU: {one_line(error)}; "
            "reinstall autopatch on this machine, or for its architecture"
        ) from error
