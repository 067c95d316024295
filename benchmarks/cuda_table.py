"""Times nearest_neighbors on the GPU beside torch, checks it against float64, writes one table.

`python benchmarks/cuda_table.py FOLDER` needs torch and autopatch alone.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import autopatch
from autopatch import _C
from autopatch.kernels import NearestNeighborIndex, nearest_neighbors

SIZES = [(3136, 10_000, 64), (25_088, 10_000, 160), (25_088, 20_000, 384)]
CHUNK = 4096  # queries that the torch peers take at a time
CHECKED = 500  # queries compared with float64
TOLERANCE = 1e-5


def milliseconds(function: Callable[[], object]) -> float:
    """Median of 10 runs by CUDA events, after a warm-up."""
    times = []
    for run in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if run >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def main(folder: Path) -> int:
    gpu = torch.cuda.get_device_name()
    lines = [
        f"# nearest_neighbors, k = 1, on {gpu}",
        "",
        f"autopatch {autopatch.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; float32, no TF32; median of 10 runs; error: largest "
        f"relative difference from float64 of {CHECKED} queries.",
        "",
        "| queries | rows | features | method | ms | TFLOP/s | error |",
        "|---|---|---|---|---|---|---|",
    ]
    accurate = True
    for num_queries, num_rows, dim in SIZES:
        generator = torch.Generator("cuda").manual_seed(0)
        queries, bank = (
            torch.randn(rows, dim, device="cuda", generator=generator).relu_()
            for rows in (num_queries, num_rows)
        )
        exact = torch.cdist(queries[:CHECKED].double(), bank.double()).amin(dim=1).square()
        index = NearestNeighborIndex(bank)
        bank_norms = bank.square().sum(dim=1)

        def matmul(queries=queries, bank=bank, bank_norms=bank_norms) -> torch.Tensor:
            return torch.cat(
                [
                    torch.addmm(bank_norms, chunk, bank.t(), alpha=-2).amin(dim=1)
                    + chunk.square().sum(dim=1)
                    for chunk in queries.split(CHUNK)
                ]
            )

        def cdist(queries=queries, bank=bank) -> torch.Tensor:
            return torch.cat(
                [torch.cdist(chunk, bank).amin(dim=1) for chunk in queries.split(CHUNK)]
            ).square()

        def ours(queries=queries, index=index) -> torch.Tensor:
            return nearest_neighbors(queries, index)[0][:, 0]

        for name, function in [
            ("torch matmul + min", matmul),
            ("torch cdist + min", cdist),
            ("autopatch", ours),
        ]:
            error = float(((function()[:CHECKED].double() - exact).abs() / exact).max())
            time = milliseconds(function)
            rate = 2e-9 * num_queries * num_rows * dim / time
            lines.append(
                f"| {num_queries} | {num_rows} | {dim} | {name} | {time:.2f} | {rate:.1f} "
                f"| {error:.1e} |"
            )
            accurate &= function is not ours or error <= TOLERANCE
    table = "\n".join(lines) + "\n"
    print(table, end="")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"cuda_{re.sub(r'[^A-Za-z0-9]+', '_', gpu)}.md").write_text(table)
    if not accurate:
        print(f"autopatch differs from float64 by more than {TOLERANCE}", file=sys.stderr)
    return not accurate


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: cuda_table.py FOLDER")
    if not (_C.cuda_built and torch.cuda.is_available()):
        sys.exit("autopatch was built without CUDA, or torch finds no usable GPU")
    sys.exit(main(Path(sys.argv[1])))
