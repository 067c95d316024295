"""Shared by all operators: registration, and checks of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autopatch import _C

Operator = Callable[..., Any]

_library = torch.library.Library("autopatch", "DEF")


def define(schema: str, *, cpu: Operator, cuda: Operator, fake: Operator) -> None:
    """Registers `autopatch::<schema>`.

    Operators that write to an argument get no autograd rule, because torch does not support one.
    Their callers must refuse inputs that require a gradient.

    Args:
        schema: Name, arguments and results, in torch's notation.
        cpu: Runs on the CPU.
        cuda: Runs on a GPU.
        fake: Checks its inputs and returns empty results of the right shape and dtype. It is
            registered for all other backends too, so it refuses sparse tensors and other devices.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    _library.impl(name, cpu, "CPU")
    _library.impl(name, cuda, "CUDA")
    _library.impl(name, fake, "CompositeExplicitAutograd")  # every other backend
    torch.library.register_fake(f"autopatch::{name}", fake, lib=_library)
    if "!" not in schema:
        torch.library.register_autograd(f"autopatch::{name}", _no_gradient(name), lib=_library)


def _no_gradient(name: str) -> Operator:
    def backward(_context: Any, *_gradients: Any) -> None:
        raise RuntimeError(f"autopatch::{name} has no gradient; call it under torch.no_grad()")

    return backward


def threads(num_threads: int) -> int:
    """The number of CPU threads: `num_threads`, or torch's number of threads for 0."""
    if num_threads < 0:
        raise ValueError(f"`num_threads` is {num_threads}, expected at least 0")
    return min(num_threads or torch.get_num_threads(), _C.max_threads)


def check_finite(name: str, tensor: torch.Tensor, num_threads: int) -> None:
    """Raises ValueError if a contiguous float32 tensor holds NaN or infinity. Meta tensors, and
    tensors during the capture of a CUDA graph, are not checked."""
    if tensor.is_meta:
        return
    if tensor.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            return
        # NaN spreads to both extremes. `isfinite` of all values would need five bytes per value.
        finite = tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())
    else:
        finite = _C.all_finite(tensor.data_ptr(), tensor.numel(), threads(num_threads))
    if not finite:
        raise ValueError(f"`{name}` holds NaN or infinity")
