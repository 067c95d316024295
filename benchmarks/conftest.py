"""What the benchmarks share: thread counts, ISA levels, and the record of a measurement."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

import floors
from autopatch import _C
from extrapolation import time_whole

if "avx512" in _C.isa_levels():
    # The OpenBLAS of faiss's wheels takes recent CPUs for older ones and leaves AVX-512 unused;
    # told so, faiss is a tenth faster. Read when faiss is first imported.
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
for peer in ("cv2", "faiss", "sklearn.neighbors"):
    # `threads` reaches the libraries that are loaded.
    with contextlib.suppress(ImportError):
        importlib.import_module(peer)

_SECONDS = 0.8  # of rounds, at most, unless the fewest take longer
_FEWEST_ROUNDS = 3
_MOST_ROUNDS = 100


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Adds the machine's peaks."""
    output_json["peaks"] = {
        f"{name} {threads}": rate for (name, threads), rate in floors.peaks().items()
    }


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads} thread{'s' * (threads > 1)}")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Thread count, of torch and of the libraries of the peers too."""
    count = request.param
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(count)
        yield count
    torch.set_num_threads(before)


@pytest.fixture(params=_C.isa_levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each ISA level of this CPU."""
    before = _C.active_isa()
    _C.set_active_isa(request.param)
    yield request.param
    _C.set_active_isa(before)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Times a function, notes what `cpu_table.py` needs, and returns the function's result."""

    def run(
        function: Callable[[], Any],
        *,
        group: str,
        work: float,
        unit: str,
        floor: Mapping[str, float] | None = None,
        data: str = "synthetic",
        target: float | None = None,
        part: float = 1.0,
        rounds: int | None = None,
    ) -> Any:
        """Times `function`.

        Args:
            function: A member of the group.
            group: Kernel and size: members of one group do the same work.
            work: How much that is, in 1e9 operations, bytes or whatever `unit` is of.
            unit: Of the rate, such as "Gop/s".
            floor: The least that the group's work needs of the machine, in 1e9 operations or bytes
                by the names of `floors.seconds`. By default `work`: multiply-adds in fp32 if the
                unit is Gop/s, memory copied if it is GB/s, unknown for any other.
            data: What it is measured on.
            target: The ratio to the best peer that is aimed at.
            part: Share of the work that one call does: the time of all of it is recorded, and the
                member's name says so.
            rounds: Calls to time, without a warm-up; by default one call to warm up and as many
                as fit into a second.
        """
        benchmark.group = group
        if rounds is None:
            start = time.perf_counter()
            function()
            once = time.perf_counter() - start
            fewest = _FEWEST_ROUNDS if once < 1 else 2
            rounds = min(max(int(_SECONDS / once), fewest), _MOST_ROUNDS)
        load = floors.OtherLoad()
        result = time_whole(benchmark, function, rounds=rounds, part=part)
        others = load.share()
        parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
        info = benchmark.extra_info
        info.update(
            machine=floors.processor(),
            torch=torch.__version__,
            threads=parameters.get("threads"),
            isa=parameters.get("isa"),
            data=data,
            target=target,
            timed_share=part,
            unit=unit,
            others=round(others, 4),
        )
        if benchmark.stats is not None:  # None with --benchmark-disable
            whole = benchmark.stats.stats.median
            info[unit] = round(work / whole, 3)
            if floor is None:
                floor = {"Gop/s": {"fp32": work}, "GB/s": {"copy": work}}.get(unit, {})
            least = floors.seconds(floor, parameters.get("threads") or 1) if floor else None
            if least is not None:
                info.update(floor=least, share_of_floor=round(least / whole, 4))
        return result

    return run
