"""Compiles the CUDA operators for every supported GPU generation, with warnings as errors, and
writes the compiler's report for each kernel: registers, shared memory, spills. Needs nvcc, but no
GPU.

    python benchmarks/cuda_resources.py    # writes benchmarks/results/cuda_resources.md
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "csrc" / "ops" / "cuda").glob("*.cu"))
ARCHITECTURES = ("80", "86", "87", "89", "90a", "100", "120")
TABLE = ROOT / "benchmarks" / "results" / "cuda_resources.md"

_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\s+"
    r"ptxas info\s+: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """Resources of a kernel on one architecture."""

    source: str
    name: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spilled: int


def compiled(source: Path, architecture: str) -> list[Kernel]:
    """Compiles a source file and returns its kernels."""
    command = [
        os.environ.get("CUDACXX", "nvcc"),
        "-std=c++17",
        "-O3",
        f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
        f"-I{ROOT / 'csrc'}",
        "-Werror=all-warnings",
        "-Xptxas=-v",
        "-c",
        str(source),
        "-o",
        os.devnull,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{source.name} for {architecture} does not compile:\n{done.stderr}")
    return [
        Kernel(
            source.stem,
            _short(match["name"]),
            architecture,
            registers=int(match["registers"]),
            shared=_bytes(match["rest"], "smem"),
            stack=int(match["stack"]),
            spilled=int(match["stores"]) + int(match["loads"]),
        )
        for match in _ENTRY.finditer(done.stderr)
    ]


def _bytes(text: str, kind: str) -> int:
    found = re.search(rf"(\d+) bytes {kind}", text)
    return int(found[1]) if found else 0


def _short(mangled: str) -> str:
    """Short form of a mangled name, such as "nearest_kernel<4>"."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|autopatch::|^void ", "", name)
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def main() -> int:
    version = subprocess.run(
        [os.environ.get("CUDACXX", "nvcc"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    with ThreadPoolExecutor() as pool:
        kernels = [
            kernel
            for found in pool.map(lambda job: compiled(*job), product(SOURCES, ARCHITECTURES))
            for kernel in found
        ]
    release = re.search(r"release ([\d.]+)", version)
    lines = [
        "# Resources of the CUDA kernels",
        "",
        f"As nvcc {release[1] if release else 'unknown'} reports them, warnings as errors, without "
        "the dynamic shared memory that a launch adds. Each cell: registers per thread and, if "
        "any, bytes of stack and of spills.",
        "",
        f"| source | kernel | shared bytes | {' | '.join(f'sm_{a}' for a in ARCHITECTURES)} |",
        f"|---|---|---|{'---|' * len(ARCHITECTURES)}",
    ]
    for source, name in dict.fromkeys((k.source, k.name) for k in kernels):
        of_kernel = {k.architecture: k for k in kernels if (k.source, k.name) == (source, name)}
        cells = []
        for architecture in ARCHITECTURES:
            kernel = of_kernel.get(architecture)
            if kernel is None:
                cells.append("")
                continue
            extra = f" (stack {kernel.stack}, spilled {kernel.spilled})" if kernel.stack else ""
            cells.append(f"{kernel.registers}{extra}")
        shared = max(k.shared for k in of_kernel.values())
        lines.append(f"| {source} | `{name}` | {shared} | {' | '.join(cells)} |")
    TABLE.write_text("\n".join(lines) + "\n")
    print(TABLE.read_text(), end="")
    spilling = sorted({k.name for k in kernels if k.spilled})
    if spilling:
        print(f"spills: {', '.join(spilling)}", file=sys.stderr)
    return bool(spilling)


if __name__ == "__main__":
    sys.exit(main())
