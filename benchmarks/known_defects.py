"""Measures what a bank of known defects is worth, on the test sets of `../shared/data`.

    python benchmarks/known_defects.py > benchmarks/results/known_defects.md

For each data set and seed, one fixed detector is scored on the test set without known defects, with
one and with four known images of each type, and with different weights. "4 of each other type":
each type is scored by a detector that knows four images of every other type; mean over the types.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

from autopatch.data import DEFAULT_READING, EVALUATION_SIZE, Sample
from autopatch.detector import DefectBank, FittedHead, fit_head
from autopatch.search.shots import Shots
from scenes import RESERVE, SETS, SETTING, Scene, mean, spread

WEIGHTS = (None, 0.25, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bank-size", type=int, default=10_000)
    arguments = parser.parse_args()
    print(
        f"{SETTING}, coreset of {arguments.bank_size:,} of all patches; {arguments.seeds} splits; "
        "test rwAP in percent, mean ± deviation (image AUROC)\n"
    )
    print("| set | known images | " + " | ".join(map(described, WEIGHTS)) + " |")
    print("|---|---|" + "---|" * len(WEIGHTS))
    for name in arguments.sets:
        found: dict[str, list[list[tuple[float, float]]]] = {}
        for seed in range(arguments.seeds):
            scene = Scene(name, seed)
            head = replace(scene.head, bank_size=arguments.bank_size)
            fitted = fit_head(scene.good, head, size=EVALUATION_SIZE)
            for words, measure in ROWS.items():
                row = [measure(scene, fitted, weight) for weight in WEIGHTS]
                found.setdefault(words, []).append(row)
                print(name, seed, words, row, file=sys.stderr, flush=True)
        for words, rows in found.items():
            cells = [
                f"{spread([rwap for rwap, _ in column])} ({mean([auroc for _, auroc in column])})"
                for column in zip(*rows, strict=True)
            ]
            print(f"| {name} | {words} | {' | '.join(cells)} |", flush=True)


def seen(scene: Scene, head: FittedHead, weight: float | None, number: int) -> tuple[float, float]:
    """rwAP and image AUROC with `number` known images of each type."""
    types = sorted({sample.type for sample in scene.split.validation})
    known = [shot for kind in types for shot in _of(kind, scene)[:number]]
    return _measured(scene, head, weight, known, scene.split.test)


def unseen(scene: Scene, head: FittedHead, weight: float | None) -> tuple[float, float]:
    """Mean rwAP and image AUROC of each type with the known images of all other types."""
    found = []
    for kind in sorted({sample.type for sample in scene.split.validation}):
        known = [shot for shot in scene.split.validation if shot.type != kind]
        scored = [sample for sample in scene.split.test if sample.type in ("good", kind)]
        found.append(_measured(scene, head, weight, known, scored))
    rwap, auroc = zip(*found, strict=True)
    return statistics.mean(rwap), statistics.mean(auroc)


ROWS = {
    "1 of each type": lambda scene, head, weight: seen(scene, head, weight, 1),
    f"{RESERVE} of each type": lambda scene, head, weight: seen(scene, head, weight, RESERVE),
    f"{RESERVE} of each other type": unseen,
}


def _of(kind: str, scene: Scene) -> list[Sample]:
    return [shot for shot in scene.split.validation if shot.type == kind]


def _measured(
    scene: Scene,
    head: FittedHead,
    weight: float | None,
    known: Sequence[Sample],
    scored: Sequence[Sample],
) -> tuple[float, float]:
    if weight is None:
        maps = head.anomaly_maps(scene.maps(scored))
    else:
        head = replace(head, defects=DefectBank(head.defects.bank, weight=weight))
        shots = Shots(known, scored, DEFAULT_READING, held_out=scene.split.holdout)
        searched = scene.maps(shots.searched)
        _, maps = shots.anomaly_maps_knowing(head, searched, scene.maps(known))
    metrics = scene.metrics(maps, scored)
    return metrics["rwAP"], metrics["image_AUROC"]


def described(weight: float | None) -> str:
    return "not used" if weight is None else f"weight {weight:g}"


if __name__ == "__main__":
    main()
