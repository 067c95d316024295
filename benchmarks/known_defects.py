"""Measures what a bank of known defects is worth, on the test sets of `../shared/data`.

    python benchmarks/known_defects.py > benchmarks/results/known_defects.md

For each data set and seed, one fixed detector is scored on the test set without known defects, with
one and with four known images of each type, and with different weights. "Unseen": each type is
scored by a detector that knows four images of every other type; mean over the types.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    Cache,
    MVTecAD,
    Sample,
    load_masks,
    make_split,
)
from autopatch.detector import (
    Architecture,
    FittedHead,
    GoodMaps,
    Head,
    Input,
    fit_head,
    score_maps,
)
from autopatch.search.feature_maps import FeatureMaps
from autopatch.search.shots import Shots
from autopatch.supernet import Backbone, load_supernet
from features import SHARED

SPACE = "timm:mobilenetv2_100"
LEVELS = {"mvtec_transistor": (1, 2, 3)}  # stride 4, 8 and 16; other sets without stride 16
WEIGHTS = (None, 0.25, 0.5, 1.0)
RESERVE = 4


class Scene:
    """The feature maps of a data set, and a head fitted on its good images."""

    def __init__(self, name: str, seed: int, bank_size: int) -> None:
        root = SHARED / "data" / name
        split = make_split(MVTecAD.scan(root), shots=RESERVE, reserve=RESERVE, seed=seed)
        supernet = load_supernet(SPACE, str(SHARED / "weights" / "mobilenetv2_100.safetensors"))
        levels = LEVELS.get(name, (1, 2))
        head = Head((3,) * len(levels), bank_size)
        architecture = Architecture(Input(224), Backbone(SPACE, levels), head)
        self.samples = (*split.test, *split.validation, *split.holdout)
        feature_maps = FeatureMaps(supernet, fit=split.fit, scored=self.samples, cache=Cache(0))
        maps = feature_maps.get(architecture)
        fit = len(split.fit)
        self.maps = [m[fit:] for m in maps]
        self.head = fit_head(
            GoodMaps.of([m[:fit] for m in maps]), architecture.head, size=EVALUATION_SIZE
        )
        self.split = split
        self.masks = load_masks(self.samples)

    def taken(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        places = torch.tensor([self.samples.index(sample) for sample in samples])
        return [m[places] for m in self.maps]

    def shots(self, number: int) -> list[Sample]:
        """The first `number` known images of each type."""
        types = {sample.type for sample in self.split.validation}
        return [
            shot
            for kind in sorted(types)
            for shot in [s for s in self.split.validation if s.type == kind][:number]
        ]

    def metrics(
        self, weight: float | None, known: Sequence[Sample], scored: Sequence[Sample]
    ) -> dict[str, float]:
        if weight is None:
            maps = self.head.anomaly_maps(self.taken(scored))
        else:
            defects = replace_weight(self.head, weight)
            _, maps = Shots(known, scored, DEFAULT_READING).anomaly_maps(
                defects, self.taken(scored), self.taken(known), self.taken(self.split.holdout)
            )
        places = torch.tensor([self.samples.index(sample) for sample in scored])
        return dict(score_maps(maps, self.masks[places], [sample.type for sample in scored]))


def replace_weight(head: FittedHead, weight: float) -> FittedHead:
    defects = type(head.defects)(head.defects.bank, weight=weight)
    return replace(head, defects=defects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bank-size", type=int, default=10_000)
    arguments = parser.parse_args()
    print(
        f"{SPACE}, 224 px, strides 4 and 8 (transistor: and 16), patch size 3, coreset of "
        f"{arguments.bank_size:,} of all patches; {arguments.seeds} splits; test rwAP (image "
        "AUROC) in percent, mean +- deviation\n"
    )
    print("| set | known images | " + " | ".join(map(described, WEIGHTS)) + " |")
    print("|---|---|" + "---|" * len(WEIGHTS))
    for name in arguments.sets:
        scenes = [Scene(name, seed, arguments.bank_size) for seed in range(arguments.seeds)]
        for words, measure in ROWS.items():
            cells = []
            for weight in WEIGHTS:
                found = [measure(scene, weight) for scene in scenes]
                cells.append(f"{spread([f[0] for f in found])} ({mean([f[1] for f in found])})")
            print(f"| {name} | {words} | {' | '.join(cells)} |", flush=True)
            print(name, words, file=sys.stderr)


SETS = ("magnetic_tile", "mvtec_bottle", "mvtec_screw", "mvtec_transistor")


def seen(number: int, scene: Scene, weight: float | None) -> tuple[float, float]:
    metrics = scene.metrics(weight, scene.shots(number), scene.split.test)
    return metrics["rwAP"], metrics["image_AUROC"]


def unseen(scene: Scene, weight: float | None) -> tuple[float, float]:
    found = []
    for kind in sorted({sample.type for sample in scene.split.validation}):
        known = [shot for shot in scene.split.validation if shot.type != kind]
        scored = [sample for sample in scene.split.test if sample.type in ("good", kind)]
        found.append(scene.metrics(weight, known, scored))
    rwap, auroc = ([m[name] for m in found] for name in ("rwAP", "image_AUROC"))
    return statistics.mean(rwap), statistics.mean(auroc)


ROWS = {
    "1 of each type": lambda scene, weight: seen(1, scene, weight),
    "4 of each type": lambda scene, weight: seen(4, scene, weight),
    "4 of each other type": unseen,
}


def described(weight: float | None) -> str:
    return "not used" if weight is None else f"weight {weight:g}"


def mean(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f}"


def spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values)} +- {100 * deviation:.1f}"


if __name__ == "__main__":
    main()
