"""Runs the CUDA benchmarks and writes their results as one table.

    python benchmarks/cuda_table.py measure aggregate_patches ROWS   # writes ROWS/<operator>.jsonl
    python benchmarks/cuda_table.py write ROWS FOLDER                # FOLDER/cuda_<GPU>.md

They need torch, NumPy and autopatch; the benchmark of whole detectors also needs timm and scipy. No
network is needed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import autopatch
from autopatch import _C

BENCHMARKS = (
    "aggregate_patches",
    "greedy_coreset",
    "nearest_neighbors",
    "pixel_metrics",
    "detector",
)


def measure(benchmark: str, folder: Path) -> None:
    """Runs one benchmark. Each row is written at once, so that a failure keeps the earlier rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{benchmark}.jsonl").open("w") as file:

        def report(**row: Any) -> None:
            print(json.dumps(row), file=file, flush=True)
            print(" | ".join(map(_cell, row.values())), flush=True)

        importlib.import_module(f"cuda_{benchmark}").measure(report)


def write(rows: Path, folder: Path) -> Path:
    """Writes the table of the measurements."""
    gpu = torch.cuda.get_device_name()
    lines = [
        f"# CUDA operators on {gpu}",
        "",
        f"{datetime.date.today()}, driver {_driver()}, CUDA {torch.version.cuda}, "
        f"torch {torch.__version__}, autopatch {autopatch.__version__}, "
        f"Python {platform.python_version()}. Milliseconds are medians by CUDA events after a "
        "warm-up; inputs are larger than the L2 cache or change from call to call, except those of "
        "5 M pixels and of single images. Error: largest difference from the reference, relative. "
        "Ratio: the method's time over autopatch's.",
        "",
    ]
    for benchmark in BENCHMARKS:
        path = rows / f"{benchmark}.jsonl"
        measured = [json.loads(line) for line in path.open()] if path.is_file() else []
        lines += [f"## {benchmark}", "", *_table(measured), ""]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"cuda_{re.sub(r'[^A-Za-z0-9]+', '_', gpu)}.md"
    path.write_text("\n".join(lines))
    return path


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Not measured."]
    ours = {}
    for row in rows:
        if not row["is_peer"] and row["milliseconds"] is not None:
            ours.setdefault(row["work"], row["milliseconds"])
    lines = ["| work | method | ms | ratio | achieved | error |", "|---|---|---|---|---|---|"]
    for row in rows:
        time, base = row["milliseconds"], ours.get(row["work"])
        ratio = f"{time / base:.1f}" if time and base else ""
        cells = (row["work"], row["method"], time, ratio, row["achieved"], row["error"])
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return lines


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("benchmark", choices=BENCHMARKS)
    measuring.add_argument("rows", type=Path)
    writing = commands.add_parser("write")
    writing.add_argument("rows", type=Path)
    writing.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if not (_C.cuda_built and torch.cuda.is_available()):
        print("autopatch was built without CUDA, or torch finds no usable GPU", file=sys.stderr)
        return 1
    if arguments.command == "measure":
        measure(arguments.benchmark, arguments.rows)
    else:
        print(write(arguments.rows, arguments.folder).read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
