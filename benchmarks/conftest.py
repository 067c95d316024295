"""Shared fixtures of the benchmarks: thread counts, ISA levels, and measuring."""

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
    # The OpenBLAS in faiss's wheels takes recent CPUs for older ones and does not use AVX-512. This
    # setting makes faiss a tenth faster. It is read when faiss is first imported.
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
for peer in ("cv2", "faiss", "sklearn.neighbors"):
    # `threads` only affects libraries that are already loaded.
    with contextlib.suppress(ImportError):
        importlib.import_module(peer)

_SECONDS = 0.8  # maximum time of all rounds, unless the minimum number takes longer
_FEWEST_ROUNDS = 3
_MOST_ROUNDS = 100


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Adds the machine's peaks to the JSON file."""
    output_json["peaks"] = {
        f"{name} {threads}": rate for (name, threads), rate in floors.peaks().items()
    }


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads} thread{'s' * (threads > 1)}")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of threads, also set for torch and the libraries of the peers."""
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
    """Times a function, records what `cpu_table.py` needs, and returns the function's result."""

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
            function: The function to time, a member of the group.
            group: Kernel and size. Members of a group do the same work.
            work: Amount of work of the group, in 1e9 operations, bytes or other units.
            unit: Unit of the rate, such as "Gop/s".
            floor: Minimum operations or bytes of the group's work, in 1e9, by name as for
                `floors.seconds`. By default `work`: fp32 multiply-adds if the unit is Gop/s, copied
                memory if it is GB/s, unknown for other units.
            data: Description of the data.
            target: Target ratio to the best peer.
            part: Share of the work that one call does. The time of the whole work is recorded, and
                the member's name shows the share.
            rounds: Number of calls to time, without a warm-up. By default, one warm-up call, then
                as many calls as fit into about a second.
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
