"""Measures what the choice of a memory bank is worth, on the test sets of `../shared/data`.

    python benchmarks/banks.py > benchmarks/results/banks.md

Random rows, coresets of a sample and of all patches, coresets in less memory than the patches need,
and all patches; the rest of the detector is fixed. The covering radius is how far a patch of the
good images is from its nearest row, at most; the bound is what `choose_coreset` promises.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from autopatch.data import EVALUATION_SIZE
from autopatch.detector import FittedHead, PatchAggregator
from autopatch.detector.coreset import _KERNEL_BYTES, Coreset, choose_coreset
from autopatch.kernels import nearest_neighbors
from scenes import SETS, SETTING, Scene

SIZE = 10_000
SAMPLE = 50_000
LARGE = 40_000


@dataclass(frozen=True)
class Bank:
    rows: torch.Tensor
    bound: float | None
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{SETTING}; one split; test results in percent; {arguments.threads} thread. The covering "
        "radius is that of all patches, the bound that of those that a coreset is chosen from.\n"
    )
    print(
        "| set | bank | seconds to choose | covering radius | bound | rwAP | AP | image AUROC | "
        "nearest neighbors, ms an image |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.sets:
        scene = Scene(name, seed=0)
        pooled = PatchAggregator(scene.head.patch_sizes)
        patches = torch.cat([pooled(batch) for batch in scene.good.batches])
        for words, choose in banks(patches):
            bank = choose()
            head = FittedHead.of(scene.head, pooled, bank.rows, radius=0.0, size=EVALUATION_SIZE)
            started = time.perf_counter()
            maps = head.anomaly_maps(scene.maps(scene.split.test))
            each = (time.perf_counter() - started) / len(scene.split.test)
            metrics = scene.metrics(maps, scene.split.test)
            qualities = [f"{100 * metrics[key]:.1f}" for key in ("rwAP", "AP", "image_AUROC")]
            radius = float(nearest_neighbors(patches, bank.rows)[0].amax().sqrt())
            bound = "" if bank.bound is None else f"{bank.bound:.2f}"
            cells = [f"{bank.seconds:.1f}", f"{radius:.2f}", bound, *qualities, f"{1e3 * each:.0f}"]
            print(f"| {name} | {words} | {' | '.join(cells)} |", flush=True)
            print(name, words, *cells, file=sys.stderr, flush=True)


def banks(patches: torch.Tensor) -> Iterator[tuple[str, Callable[[], Bank]]]:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(patches), generator=generator)
    a_patch = 4 * patches.shape[1] + _KERNEL_BYTES

    def coreset(rows: torch.Tensor, count: int, memory: int | None = None) -> Bank:
        started = time.perf_counter()
        chosen: Coreset = choose_coreset(
            rows.split(50_000),
            count,
            patches=len(rows),
            memory_bytes=(memory or len(rows)) * a_patch,
        )
        return Bank(chosen.rows, chosen.radius(count), time.perf_counter() - started)

    yield f"{SIZE:,} random", lambda: Bank(patches[order[:SIZE]], None, 0.0)
    yield (
        f"coreset of {SIZE:,} out of {SAMPLE:,} random",
        lambda: coreset(patches[order[:SAMPLE].sort().values], SIZE),
    )
    yield f"coreset of {SIZE:,} out of all {len(patches):,}", lambda: coreset(patches, SIZE)
    for memory in (100_000, 50_000):
        yield (
            f"the same, with memory for {memory:,} patches",
            lambda memory=memory: coreset(patches, SIZE, memory),  # type: ignore[misc]
        )
    yield f"coreset of {LARGE:,} out of all", lambda: coreset(patches, LARGE)
    yield "all patches", lambda: Bank(patches, None, 0.0)


if __name__ == "__main__":
    main()
