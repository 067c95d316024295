"""Backbones compute in float32: TF32 and autocast are off while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

_lock = threading.Lock()
_running = 0
_restore: list[Callable[[], object]] = []
"""Functions that restore the settings."""


def in_float32(device: torch.device) -> Any:
    """A context in which a network computes in float32: without the caller's `torch.autocast` and,
    on a GPU, without TF32. Otherwise a threshold would depend on the device and on the caller.

    By default torch allows TF32 in convolutions. TF32 has 10 bits of mantissa instead of 23 and
    changes distances by up to a few thousandths. torch has one setting for the whole process. It is
    restored when the last thread leaves the context; until then all threads compute in float32.

    While a graph is traced, the context does nothing: a compiled or exported graph uses the
    process's settings when it runs.

    Args:
        device: The device of the computation.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    contexts = ExitStack()
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):
        contexts.enter_context(torch.autocast(device.type, enabled=False))
    if device.type == "cuda":
        contexts.enter_context(_no_tf32())
    return contexts


@contextmanager
def _no_tf32() -> Iterator[None]:
    global _running
    with _lock:
        if not _running:
            _restore[:] = [_set_convolutions(), _set_matrix_products()]
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                for restore in _restore:
                    restore()


# torch 2.9 has new settings besides the old ones. If the new setting disagrees with the old one,
# reading the old one raises RuntimeError. In that case the new one is changed. A setting that does
# not allow TF32 is not changed.


def _set_convolutions() -> Callable[[], object]:
    cudnn: Any = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:
        return _set_new(cudnn.conv)
    if not allowed:
        return _nothing
    cudnn.allow_tf32 = False
    return partial(setattr, cudnn, "allow_tf32", True)


def _set_matrix_products() -> Callable[[], object]:
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _set_new(torch.backends.cuda.matmul)
    if before == "highest":
        return _nothing
    torch.set_float32_matmul_precision("highest")
    return partial(torch.set_float32_matmul_precision, before)


def _set_new(settings: Any) -> Callable[[], object]:
    before = settings.fp32_precision
    if before != "tf32":
        return _nothing
    settings.fp32_precision = "ieee"
    return partial(setattr, settings, "fp32_precision", before)


def _nothing() -> None:
    pass
