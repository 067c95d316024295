"""Devices, and the instruction sets of the native module."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autopatch import _C
from autopatch.errors import InputError


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
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
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
    return torch.device(text)
