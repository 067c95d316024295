from __future__ import annotations

import errno

import pytest
import torch

from autopatch.errors import machine_failure, one_line


class AcceleratorError(RuntimeError):
    """The error class of torch 2.8 and later."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `c()`"), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (OSError(errno.EMFILE, "Too many open files"), "system"),
        (AcceleratorError("an illegal memory access was encountered"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered\nhelp"), "device"),
        (RuntimeError("nearest_neighbors: unspecified launch failure"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (RuntimeError("pixel_metrics: no kernel image is available for execution"), "device"),
        (RuntimeError("CUDA error: invalid configuration argument"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `c()`"), None),
        (RuntimeError("CUDA error: CUSOLVER_STATUS_INVALID_VALUE, when calling `c()`"), None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_LAYOUT"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("out of memory"), None),
        (KeyError("CUDA error"), None),
    ],
)
def test_failures_of_the_machine(error: Exception, failure: str | None) -> None:
    assert machine_failure(error) == failure


def test_one_line() -> None:
    assert one_line(ValueError("a\n  b\t c")) == "a b c"
    assert one_line(ValueError("x" * 400)) == "x" * 300
    assert one_line(MemoryError()) == "MemoryError"
