"""Peaks of this machine, and the minimum time of work at these peaks."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("floors.c")

NAMES = {
    "fp32": "fp32 multiply-add, Gop/s",
    "int8": "int8 dot product, Gop/s",
    "arithmetic": "the faster of them, Gop/s",
    "read": "memory read, GB/s",
    "write": "memory written past the caches, GB/s",
    "copy": "memory copy, bytes read and written, GB/s",
}
"""Descriptions of the peaks by name; `seconds` uses the same names."""


@functools.cache
def peaks() -> dict[tuple[str, int], float]:
    """Peaks in 1e9 operations or bytes per second, by name and number of threads (1 and 2).

    `floors.c` measures them in some seconds. Empty without a C compiler or x86-64. Noise can only
    lower a peak, so the best of several repeats counts.
    """
    compiler = shutil.which("cc")
    if compiler is None or platform.machine() != "x86_64":
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "floors"
        command = [compiler, "-O3", "-march=native", "-pthread", str(SOURCE), "-o", str(program)]
        subprocess.run(command, check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found: dict[tuple[str, int], float] = {}
    for name, threads, rate in map(str.split, lines.splitlines()):
        found[name, int(threads)] = float(rate)
    for count in (1, 2):
        found["arithmetic", count] = max(found.get((kind, count), 0.0) for kind in ("fp32", "int8"))
    return found


def seconds(work: Mapping[str, float], threads: int) -> float | None:
    """Time of the slowest part of `work` at the machine's peaks; None without peaks.

    Args:
        work: 1e9 operations or bytes, by name of the limiting peak, see `NAMES`.
        threads: 1 or 2.
    """
    found = peaks()
    if not found:
        return None
    return max(amount / found[name, threads] for name, amount in work.items())


DISTURBED = 0.03
"""A measurement counts as disturbed if other load takes at least this share of the CPU time."""


class OtherLoad:
    """CPU time taken by other processes, and by other virtual machines on the host, since
    construction. Because of thread barriers, one busy core costs far more than its share."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        with Path("/proc/stat").open() as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy - own.user - own.system

    def share(self) -> float:
        """Share of the CPU time of all cores, 0 to 1."""
        start, before = self._start
        end, after = self._now()
        # The clock behind /proc/stat ticks a hundred times a second.
        return max((after - before) / ((end - start) * (os.cpu_count() or 1)), 0.0)


def processor() -> str:
    """The CPU's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
