"""Runs searches with their defaults and compares their picks with PatchCore, paired.

    python benchmarks/evaluation.py --out runs/evaluation

Every search adds a line to `results/evaluation/<space>.jsonl`: metrics of the pick and of the
baselines on the test set, their latencies, timed alternately, and rwAP on resamples of the groups
of test images, the same for all detectors of a search. An interrupted run goes on. The protocol and
the results are in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopatch.data import GOOD, group_of, load_masks
from autopatch.detector import Architecture, Detector, patchcore_architecture, score_maps
from autopatch.runs import Run, run_search
from autopatch.search.bootstrap import Bootstrap
from autopatch.search.latency.timing import DeviceClock, Timer, as_in_use
from features import SHARED
from picking import SETS, SPACES
from record import Record
from searches import METRICS, REPEATS, at_size, predictions, without_known

RESULTS = Path(__file__).parent / "results" / "evaluation"
COUNTS = (0, 1, 4)
SEEDS = 5
RESERVE = 4
COMPARED = {
    "pick": "default pick",
    "without": "default pick without known defects",
    "best_rule": "published rule",
    "tuned": "PatchCore tuned on the shots",
    "tuned_known": "PatchCore tuned on the shots, known defects",
    "patchcore": "PatchCore",
    "same_size": "PatchCore at the image size of the pick",
    "patchcore_known": "PatchCore, known defects",
}
"""The detectors of a search."""


class Evaluated:
    """Measures detectors of one data set and split.

    Args:
        run: A search on it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.test = run.split.test
        self.types = [sample.type for sample in self.test]
        groups = [group_of(sample) for sample in self.test]
        self.masks = load_masks(self.test, reading=run.reading)
        self._bootstrap = Bootstrap(self.masks, self.types, groups, good=GOOD)

    def __call__(self, detector: Detector) -> dict[str, Any]:
        """Metrics, false alarms, missed images, and rwAP of each resample in 0.0001."""
        prediction = detector.predict([sample.image for sample in self.test])
        maps, scores = prediction.anomaly_map, prediction.pred_score
        found = score_maps(maps, self.masks, self.types)
        above = (scores > detector.threshold.value).tolist()
        labels = [kind != GOOD for kind in self.types]
        resampled = self._bootstrap.rwap(self._bootstrap.levels(maps), range(len(self.test)))
        return {
            "metrics": {metric: found[metric] for metric in METRICS},
            "false_alarms": sum(a and not b for a, b in zip(above, labels, strict=True)),
            "missed": sum(b and not a for a, b in zip(above, labels, strict=True)),
            "resampled": [None if np.isnan(v) else round(1e4 * v) for v in resampled[1:].tolist()],
        }


def searched(
    space: str, name: str, shots: int, seed: int, out: Path, **options: Any
) -> tuple[Run, float | None]:
    """A search, and its seconds; None if it was resumed."""
    began = time.monotonic()
    resume = (out / "study.db").is_file()
    run = run_search(
        SHARED / "data" / name,
        out,
        space=space,
        weights=weights_of(space),
        shots=shots,
        seed=seed,
        reserve=RESERVE,
        resume=resume,
        **options,
    )
    return run, None if resume else time.monotonic() - began


def weights_of(space: str) -> str:
    """The trained weights of a backbone."""
    if not space.startswith("timm:"):
        return "auto"
    return str(SHARED / "weights" / f"{space.removeprefix('timm:')}.safetensors")


def tuned_genes(run: Run) -> dict[str, Any]:
    """The values that make every detector of a space one of PatchCore's kind: its levels and the
    largest backbone."""
    baseline = patchcore_architecture(run.supernet, images=len(run.good))
    assert baseline is not None
    space = run.space
    sizes = [size for size in space.choices("head", "bank_size") if isinstance(size, int)]
    weights = space.choices("head", "defects")
    # Any bank size and weight that the space has: only the backbone's genes are used.
    defects = None if None in weights or not weights else weights[0]
    head = replace(baseline.head, bank_size=sizes[0], defects=defects)
    values = space.parameters(space.encode(replace(baseline, head=head)))
    backbone = [gene.name for gene in space.genes if gene.part == "backbone"]
    return {name: values[name] for name in backbone if name in values}


def evaluate(space: str, name: str, shots: int, seed: int, out: Path) -> dict[str, Any]:
    """The results of all searches of one split."""
    folder = out / f"{space.removeprefix('timm:')}_{name}_{shots}_{seed}"
    run, seconds = searched(space, name, shots, seed, folder / "pick")
    measured = Evaluated(run)
    pick = fitted(run)
    detectors: dict[str, Detector] = {"pick": pick}
    baseline = patchcore_architecture(run.supernet, images=len(run.good))
    assert baseline is not None
    detectors["patchcore"] = run.fit_architecture(baseline)
    detectors["same_size"] = run.fit_architecture(at_size(run, pick.architecture.input.size))
    if shots:
        detectors["without"] = without_known(pick)
        detectors["patchcore_known"] = run.fit_architecture(with_known(baseline))
        others = {
            "best_rule": {"fixed": {"defects": None}},
            "tuned": {"fixed": {"defects": None, **tuned_genes(run)}},
            "tuned_known": {"fixed": tuned_genes(run)},
        }
        for key, options in others.items():
            other, _ = searched(
                space,
                name,
                shots,
                seed,
                folder / key,
                rule="best",
                latency_table=run.latency_table,
                **options,
            )
            detectors[key] = fitted(other)
    results = {key: measured(detector) for key, detector in detectors.items()}
    clock = DeviceClock(torch.device("cpu"))
    timer = Timer(clock, repeats=REPEATS)
    works = [as_in_use(predictions(run, each), clock) for each in detectors.values()]
    for key, (median,) in zip(detectors, timer.medians(works), strict=True):
        results[key]["seconds"] = median
        results[key]["architecture"] = detectors[key].architecture.describe(run.supernet)
    shutil.rmtree(folder)
    return {
        "space": space,
        "set": name,
        "shots": shots,
        "seed": seed,
        "evaluations": run.evaluations,
        "search_seconds": seconds,
        "good": measured.types.count(GOOD),
        "anomalous": len(measured.types) - measured.types.count(GOOD),
        "quality": run.pick.evaluation and dict(run.pick.evaluation.metrics),
        "detectors": results,
    }


def fitted(run: Run) -> Detector:
    """The pick of a search."""
    if run.detector_path.is_file():
        return Detector.load(run.detector_path)
    return run.fit()


def with_known(architecture: Architecture) -> Architecture:
    """The architecture with the default weight of known defects."""
    return replace(architecture, head=replace(architecture.head, defects=0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spaces", nargs="+", default=SPACES[:1])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS))
    parser.add_argument("--part", default="all", help="suffix of the file of results")
    arguments = parser.parse_args()
    for space in arguments.spaces:
        path = RESULTS / f"{space.removeprefix('timm:')}_{arguments.part}.jsonl"
        record = Record(path, {"space": space})
        done = {(r["set"], r["shots"], r["seed"]) for r in record.results}
        for seed in arguments.seeds:
            for shots in arguments.counts:
                for name in arguments.sets:
                    if (name, shots, seed) not in done:
                        began = time.monotonic()
                        result = evaluate(space, name, shots, seed, arguments.out)
                        record.add(result)
                        rwap = {
                            key: round(100 * each["metrics"]["rwAP"], 1)
                            for key, each in result["detectors"].items()
                        }
                        minutes = (time.monotonic() - began) / 60
                        print(name, shots, seed, rwap, f"{minutes:.1f} min", flush=True)


if __name__ == "__main__":
    main()
