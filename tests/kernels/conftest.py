from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from autopatch import _C

LEVELS = tuple(_C.isa_levels())
GPU = ("cuda",) if _C.cuda_built and torch.cuda.is_available() else ()


@pytest.fixture(params=LEVELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each ISA level of this CPU in turn, active during the test."""
    before = _C.active_isa()
    _C.set_active_isa(request.param)
    yield request.param
    _C.set_active_isa(before)


@pytest.fixture(params=[*LEVELS, *GPU])
def backend(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each implementation of an operator that has a CUDA one: the ISA levels on the CPU, and the
    GPU."""
    if request.param not in LEVELS:
        yield torch.device(request.param)
        return
    before = _C.active_isa()
    _C.set_active_isa(request.param)
    yield torch.device("cpu")
    _C.set_active_isa(before)


@pytest.fixture
def memory_taken() -> Callable[[Callable[[], object]], int]:
    """Measures by how many bytes a function raises the peak memory."""

    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def taken(function: Callable[[], object]) -> int:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            pytest.skip(f"the peak of memory cannot be read here: {error}")
        before = peak()
        function()
        return peak() - before

    return taken
