"""Arrays at the border: torch, NumPy and other DLPack arrays in, torch tensors inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""A `torch.Tensor`, a `numpy.ndarray`, or any object with `__dlpack__`."""

_EXACT_IN_FLOAT32 = (torch.float16, torch.bfloat16)


def to_tensor(name: str, array: Array) -> torch.Tensor:
    """`array` as a tensor that shares its memory where that is possible."""
    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray):
        # torch has neither read-only tensors nor negative strides.
        shareable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        try:
            return torch.from_numpy(array if shareable else array.copy())
        except (TypeError, ValueError) as error:  # ValueError: byte order
            raise TypeError(f"`{name}` has dtype {array.dtype}, unknown to torch") from error
    if hasattr(array, "__dlpack__"):
        return torch.utils.dlpack.from_dlpack(array)
    raise TypeError(
        f"`{name}` is a {type(array).__name__}, expected a torch tensor, a NumPy array "
        "or another array with __dlpack__"
    )


def to_float32(name: str, array: Array) -> torch.Tensor:
    """As `to_tensor`; float16 and bfloat16 become float32, which holds them exactly."""
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
    """`result` as NumPy array where `model` is one, else as it is."""
    return result.numpy() if isinstance(model, np.ndarray) else result


def check_threads(num_threads: int | None) -> int:
    """The operators' thread argument, in which 0 stands for `torch.get_num_threads()`."""
    if num_threads is None:
        return 0
    if num_threads < 1:
        raise ValueError(f"`num_threads` is {num_threads}, expected at least 1")
    return num_threads
