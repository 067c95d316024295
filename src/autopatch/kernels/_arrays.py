"""Converts torch, NumPy and other DLPack arrays to torch tensors, and results back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""A `torch.Tensor`, a `numpy.ndarray`, or any object with `__dlpack__`."""

_EXACT_IN_FLOAT32 = (torch.float16, torch.bfloat16)


def to_tensor(name: str, array: Array) -> torch.Tensor:
    """`array` as a tensor. It shares the array's memory if torch can, otherwise it is a copy.

    Raises:
        TypeError: `array` is not an array, or torch does not have its dtype.
    """
    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray):
        if not is_shareable(array):
            array = array.astype(array.dtype.newbyteorder("="), order="C")
        try:
            return torch.from_numpy(array)
        except TypeError as error:
            raise TypeError(f"`{name}` has dtype {array.dtype}, unknown to torch") from error
    if hasattr(array, "__dlpack__"):
        return torch.utils.dlpack.from_dlpack(array)
    raise TypeError(
        f"`{name}` is a {type(array).__name__}, expected a torch tensor, a NumPy array "
        "or another array with __dlpack__"
    )


def is_shareable(array: np.ndarray) -> bool:
    """Whether a tensor can share the memory of a NumPy array.

    torch has no read-only tensors and only the machine's byte order. Its strides are whole elements
    and never negative.
    """
    return (
        array.flags.writeable
        and array.flags.aligned
        and array.dtype.isnative
        and all(stride >= 0 and stride % max(array.itemsize, 1) == 0 for stride in array.strides)
    )


def to_float32(name: str, array: Array) -> torch.Tensor:
    """`array` as a float32 tensor; float16 and bfloat16 are converted exactly."""
    tensor = to_tensor(name, array)
    if tensor.dtype in _EXACT_IN_FLOAT32:
        return tensor.float()
    if tensor.dtype != torch.float32:
        raise TypeError(
            f"`{name}` has dtype {str(tensor.dtype).removeprefix('torch.')}, "
            "expected float32, float16 or bfloat16"
        )
    return tensor


def like(result: torch.Tensor, model: Array) -> Array:
    """`result` as a NumPy array if `model` is one."""
    return result.numpy() if isinstance(model, np.ndarray) else result


def check_threads(num_threads: int | None) -> int:
    """The operators' thread argument: `num_threads`, or 0 (torch's number of threads) for None."""
    if num_threads is None:
        return 0
    if num_threads < 1:
        raise ValueError(f"`num_threads` is {num_threads}, expected at least 1")
    return num_threads
