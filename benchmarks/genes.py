"""Measures what each gene of the head and the input buys, on the test sets of `../shared/data`.

    python benchmarks/genes.py --out runs/genes > benchmarks/results/genes.md

Every value of a gene is tried on each of a few detectors, one gene at a time, and scored on the
test set. The table compares the best detector with a value to the best without it. Results are kept
in the folder `--out`, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from autopatch.data import MVTecAD, make_split
from autopatch.detector import Architecture, Head, Input
from autopatch.search import CandidateEvaluator, resolve_objectives
from autopatch.supernet import Backbone, load_supernet
from features import SHARED

SPACE = "timm:mobilenetv2_100"
SETS = ("magnetic_tile", "mvtec_bottle", "mvtec_screw", "mvtec_transistor")
BASES = ((1, 2), (1, 2, 3), (2, 3))  # levels of stride 4 and 8; 4, 8 and 16; 8 and 16
BANK_SIZE = 10_000
OFF = "off"

HEADS = {
    "neighbors": (1, (3, 5)),
    "smoothing": (0, (1, 2, 4)),
    "bank_size": (BANK_SIZE, (500, 1000, 2000, 5000, 20_000, 40_000)),
}
STEPS = {
    "normalization": (None, ("standardize", "whiten")),
    "distance": ("squared_l2", ("cosine",)),
    "projection": (None, (32, 64)),
}
PATCH_SIZES = (1, 5, 7, 9, 13)
LEVEL_WEIGHTS = (0.5, 2.0)
IMAGE_SIZES = (160, 288, 320, 448)


def variants(levels: tuple[int, ...]) -> Iterator[tuple[str, str, Architecture]]:
    """Gene, value, and the detector that has it; first the detector without any."""
    head = Head((3,) * len(levels), BANK_SIZE)
    base = Architecture(Input(224), Backbone(SPACE, levels), head)
    yield "", OFF, base
    for name, (_, values) in HEADS.items():
        for value in values:
            yield name, str(value), replace(base, head=replace(head, **{name: value}))
    for name, (_, values) in STEPS.items():
        for value in values:
            yield name, str(value), replace(base, head=replace(head, steps={name: value}))
    for value in PATCH_SIZES:
        for place in range(len(levels)):
            sizes = tuple(value if i == place else 3 for i in range(len(levels)))
            yield "patch_size", str(value), replace(base, head=replace(head, patch_sizes=sizes))
    for weight in LEVEL_WEIGHTS:
        for place in range(len(levels)):
            weights = tuple(weight if i == place else 1.0 for i in range(len(levels)))
            steps = {"level_weight": weights}
            yield "level_weight", str(weight), replace(base, head=replace(head, steps=steps))
    for size in IMAGE_SIZES:
        yield "image_size", str(size), replace(base, input=Input(size))


def measure(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of every variant on a data set, by architecture."""
    file = folder / f"{name}.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    split = make_split(MVTecAD.scan(SHARED / "data" / name), shots=4, reserve=4, seed=0)
    supernet = load_supernet(SPACE, str(SHARED / "weights" / "mobilenetv2_100.safetensors"))
    evaluate = CandidateEvaluator(
        supernet,
        fit=split.fit,
        scored=split.test,
        objectives=resolve_objectives(["rwAP"]),
        cache_bytes=6 << 30,
    )
    every = [variant for levels in BASES for variant in variants(levels)]
    for gene, value, architecture in sorted(every, key=lambda v: v[2].input.size):
        key = json.dumps(architecture.to_json())
        if key not in found:
            found[key] = dict(evaluate(architecture).metrics)
            file.write_text(json.dumps(found))
            print(name, gene, value, f"{found[key]['rwAP']:.3f}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {name: measure(name, arguments.out) for name in arguments.sets}
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for name, metrics in found.items():
        for levels in BASES:
            for gene, value, architecture in variants(levels):
                quality = 100 * metrics[json.dumps(architecture.to_json())]["rwAP"]
                best = rows.setdefault((gene, value), {})
                best[name] = max(best.get(name, 0.0), quality)
    print(
        f"{SPACE}; bases: strides 4+8, 4+8+16 and 8+16, patch size 3, 224 px, coreset of "
        f"{BANK_SIZE:,}; best test rwAP in percent, and the difference from the best base\n"
    )
    print("| gene | value | " + " | ".join(arguments.sets) + " |")
    print("|---|---|" + "---|" * len(arguments.sets))
    without = rows[("", OFF)]
    for (gene, value), best in rows.items():
        cells = [
            f"{best[name]:.1f}" + (f" ({best[name] - without[name]:+.1f})" if gene else "")
            for name in arguments.sets
        ]
        print(f"| {gene or 'none'} | {value} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
