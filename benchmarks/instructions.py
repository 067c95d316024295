"""Counts the machine instructions of the kernels with valgrind's callgrind.

    python benchmarks/instructions.py       # needs valgrind with its headers, and a C compiler

Unlike times, counts do not depend on other load, so they show whether a change reduced a kernel's
work. callgrind does not support AVX-512, so only the generic and AVX2 levels are counted, on one
thread. The counts, and those of torch's aggregation, are written to `results/instructions.md`.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d, interpolate

from autopatch import _C
from autopatch.kernels import aggregate_patches, greedy_coreset, nearest_neighbors, pixel_metrics

TABLE = Path(__file__).parent / "results" / "instructions.md"
LEVELS = {"generic": "default", "avx2": "avx2"}
"""ISA levels of autopatch, and torch's names for them."""
SWITCHES = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void stop(void) { CALLGRIND_STOP_INSTRUMENTATION; CALLGRIND_DUMP_STATS; }
"""


def feature_maps(images: int) -> list[torch.Tensor]:
    """Channels-last maps with the shapes of a MobileNet at 224 pixels."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(images, channels, side, side, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        for channels, side in ((24, 56), (40, 28), (112, 14), (160, 7))
    ]


def patch_features(rows: int, dim: int) -> torch.Tensor:
    """Correlated features, like a network's."""
    generator = torch.Generator().manual_seed(1)
    leading = torch.randn(rows, 8, generator=generator) @ torch.randn(8, dim, generator=generator)
    return leading + 0.3 * torch.randn(rows, dim, generator=generator)


def aggregation(patch_size: int) -> tuple[Callable[[], object], float]:
    maps = feature_maps(2)
    out = torch.empty(2 * 56 * 56, sum(m.shape[1] for m in maps))
    sizes = [patch_size] * len(maps)
    return lambda: aggregate_patches(maps, sizes, out=out, num_threads=1), out.numel()


def aggregation_by_torch() -> tuple[Callable[[], object], float]:
    maps = feature_maps(2)
    out = torch.empty(2, sum(m.shape[1] for m in maps), 56, 56).contiguous(
        memory_format=torch.channels_last
    )

    def aggregate() -> object:
        pooled = [avg_pool2d(m, 3, stride=1, padding=1) for m in maps]
        resized = [interpolate(p, size=(56, 56), mode="bilinear") for p in pooled[1:]]
        return torch.cat([pooled[0], *resized], dim=1, out=out)

    return aggregate, out.numel()


def coreset() -> tuple[Callable[[], object], float]:
    features = patch_features(10_000, 128)
    return lambda: greedy_coreset(features, 1_000, start=0, num_threads=1), 10_000 * 1_000


def search() -> tuple[Callable[[], object], float]:
    features = patch_features(8_000, 128)
    queries, bank = features[:3_000].contiguous(), features[3_000:].contiguous()
    return lambda: nearest_neighbors(queries, bank, num_threads=1), 3_000 * 5_000


def metrics(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    generator = torch.Generator().manual_seed(2)
    noise = avg_pool2d(torch.randn(10, 224, 224, generator=generator), 9, stride=1, padding=4)
    masks = noise > 0.2
    scores = (noise + 0.1 * torch.randn(noise.shape, generator=generator)).add(1).mul(100)
    scores = scores.clamp(0, 255).to(dtype)
    return lambda: pixel_metrics(scores, masks, ["a"] * 10, num_threads=1), scores.numel()


WORK: dict[str, tuple[str, Callable[[], tuple[Callable[[], object], float]]]] = {
    "aggregate_patches, patch size 3": ("value written", lambda: aggregation(3)),
    "aggregate_patches, patch size 9": ("value written", lambda: aggregation(9)),
    "the same by torch, patch size 3": ("value written", aggregation_by_torch),
    "greedy_coreset, 1,000 of 10,000": ("pair of row and pick", coreset),
    "nearest_neighbors, 3,000 in 5,000": ("pair of query and row", search),
    "pixel_metrics, float scores": ("pixel", lambda: metrics(torch.float32)),
    "pixel_metrics, 8-bit scores": ("pixel", lambda: metrics(torch.uint8)),
}
"""Name of the work, unit that counts are divided by, and function that makes the work."""


def run(name: str, switches: str) -> None:
    """Runs one piece of work under callgrind; prints its number of units."""
    library = ctypes.CDLL(switches)
    torch.set_num_threads(1)
    function, units = WORK[name][1]()
    function()
    library.start()
    function()
    library.stop()
    print(units)


def count(name: str, level: str, folder: Path) -> float:
    """Instructions per unit."""
    counts = folder / "counts"
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
    command += [f"--callgrind-out-file={counts}"]
    program = [sys.executable, __file__, name, str(folder / "switches.so")]
    environment = os.environ | {"AUTOPATCH_ISA": level, "ATEN_CPU_CAPABILITY": LEVELS[level]}
    done = subprocess.run(
        [*command, *program], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}, {level}: {done.stderr[-2000:]}")
    dump = counts.with_name(f"{counts.name}.1")  # the first and only requested dump
    total = re.search(r"^totals: (\d+)", dump.read_text(), flags=re.M)
    assert total is not None
    return int(total[1]) / float(done.stdout)


def main() -> int:
    if len(sys.argv) == 3:
        run(*sys.argv[1:])
        return 0
    if shutil.which("valgrind") is None or shutil.which("cc") is None:
        raise SystemExit("valgrind and a C compiler are needed, and not both were found")
    levels = [level for level in LEVELS if level in _C.isa_levels()]
    lines = [
        "# Instructions of the kernels",
        "",
        "Counted by callgrind, one thread, synthetic data; written by",
        "`python benchmarks/instructions.py`.",
        "",
        f"| work | instructions per | {' | '.join(levels)} |",
        f"|---|---|{'---|' * len(levels)}",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "switches.c").write_text(SWITCHES)
        library = ["-shared", "-fPIC", "-o", str(folder / "switches.so")]
        subprocess.run(["cc", "-O2", *library, str(folder / "switches.c")], check=True)
        for work, (unit, _) in WORK.items():
            found = [f"{count(work, level, folder):.3g}" for level in levels]
            lines.append(f"| {work} | {unit} | {' | '.join(found)} |")
            print(lines[-1], flush=True)
    TABLE.write_text("\n".join([*lines, ""]))
    print("written:", TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
