"""Measures a latency table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from autopatch import __version__
from autopatch.data import DEFAULT_READING, ImageInput, Reading
from autopatch.errors import InputError
from autopatch.kernels import native_info
from autopatch.progress import Progress
from autopatch.search.latency.bench import Bench
from autopatch.search.latency.check import CANDIDATES, compared, forward, random_candidates
from autopatch.search.latency.component import COMPONENTS
from autopatch.search.latency.table import LatencyTable, Machine
from autopatch.search.latency.timing import Clock, DeviceClock, Timer
from autopatch.search.space import SearchSpace
from autopatch.supernet import Supernet


def measure_table(
    supernet: Supernet,
    space: SearchSpace,
    *,
    good: Sequence[ImageInput],
    queries: Sequence[ImageInput],
    device: torch.device | str = "cpu",
    batch: int = 1,
    check: int = CANDIDATES,
    reading: Reading = DEFAULT_READING,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measures the latency table of a search space on this machine, and checks it.

    Args:
        supernet: The supernet.
        space: The search space.
        good: Good images; banks are made of at most 32 of them.
        queries: Other images to search for; at most 8 are used.
        device: Device of the detectors. The number of CPU threads is that of torch.
        batch: Images per batch, at least 1.
        check: Number of random candidates that are timed whole.
        reading: How images become pixels.
        clock: The clock; that of the device if None.
        progress: Called after every timed part.

    Raises:
        InputError: `batch` is below 1, or there are no images.
    """
    if batch < 1:
        raise InputError(f"`batch` is {batch}, expected at least 1")
    device = torch.device(device)

    def told(step: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"latency: {step}", done, total)

    clock = clock or DeviceClock(device)
    bench = Bench(
        supernet,
        space,
        good,
        queries,
        clock=clock,
        device=device,
        batch=batch,
        reading=reading,
        told=told,
    )
    works = {name: COMPONENTS[name].works(bench) for name in COMPONENTS}
    candidates = random_candidates(bench, check)
    # All at once, so that what slows the machine for a while slows none of them alone.
    timer = Timer(clock)
    medians = timer.medians(
        [
            *(work for of in works.values() for _, work in of),
            *(forward(candidate, bench) for candidate in candidates),
        ],
        partial(told, "timing"),
    )
    timed = iter(medians)
    components = {
        name: COMPONENTS[name].values([(key, next(timed)) for key, _ in of])
        for name, of in works.items()
    }
    table = LatencyTable(
        space=supernet.name,
        weights_sha256=supernet.weights_sha256,
        machine=this_machine(device, batch),
        components=components,
        disturbed=round(timer.disturbed, 4),
    )
    return replace(
        table, check=compared(table, bench, candidates, [seconds for (seconds,) in timed])
    )


def this_machine(device: torch.device, batch: int) -> Machine:
    """Describes this machine."""
    return Machine(
        processor=_processor(),
        isa=native_info().active_isa,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        batch=batch,
        torch=torch.__version__,
        autopatch=__version__,
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
