"""What the benchmarks share: thread counts, ISA levels, and the record of a measurement."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autopatch import _C

LEVELS = tuple(_C.isa_levels())


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads} thread{'s' * (threads > 1)}")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Thread count, of torch too."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=LEVELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each ISA level of this CPU."""
    before = _C.active_isa()
    _C.set_active_isa(request.param)
    yield request.param
    _C.set_active_isa(before)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Times a function, notes its rate (`work` per second, in `unit`) and returns its result."""

    def run(function: Callable[[], Any], *, group: str, work: float, unit: str) -> Any:
        benchmark.group = group
        result = benchmark(function)
        parameters = request.node.callspec.params
        benchmark.extra_info.update(
            machine=processor(),
            torch=torch.__version__,
            threads=parameters.get("threads"),
            isa=parameters.get("isa"),
        )
        if benchmark.stats is not None:  # None with --benchmark-disable
            benchmark.extra_info[unit] = round(work / benchmark.stats.stats.median, 3)
        return result

    return run


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
