"""Runs `search`, `fit` and `evaluate` with their defaults on the data sets of `../shared/data`.

    python benchmarks/searches.py --out runs/searches > benchmarks/results/searches.md

Beside each pick there are the same detector without its known defects, and the PatchCore baseline
of the same backbone at its own image size and at the one of the pick. All of them are timed
alternately, each right after another image. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autopatch.data import load_masks
from autopatch.detector import Detector, patchcore_architecture, score_maps
from autopatch.runs import Run, run_search
from autopatch.search.latency.measure import this_machine
from autopatch.search.latency.timing import DeviceClock, Timer, as_in_use
from evaluation import METRICS, REPEATS, at_size, predictions
from features import SHARED
from record import Record
from scenes import SETS, spread

DETECTORS = {
    "pick": "pick of the search",
    "without": "the pick without known defects",
    "patchcore": "PatchCore baseline",
    "same_size": "PatchCore baseline at the image size of the pick",
    "best": "best of the front (test labels)",
}


def searched(name: str, seed: int, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The results of one search: metrics by detector, seconds by detector, and what was picked."""
    folder = out / f"{name}_{seed}"
    told = _Told(f"{name}, seed {seed}")
    began = time.monotonic()
    resume = (folder / "study.db").is_file()
    run = run_search(
        SHARED / "data" / name, folder, seed=seed, resume=resume, progress=told, **options
    )
    seconds = time.monotonic() - began
    if not run.detector_path.is_file():
        run.fit(progress=told)
    detector = Detector.load(run.detector_path)
    results = run.evaluate(detector, progress=told)
    baseline = patchcore_architecture(run.supernet, images=len(run.good))
    assert baseline is not None
    detectors = {
        "pick": detector,
        "without": without_known(detector),
        "patchcore": run.fit_architecture(baseline),
        "same_size": run.fit_architecture(at_size(run, detector.architecture.input.size)),
    }
    metrics = {key: measured(run, each) for key, each in detectors.items()}
    metrics["best"] = {metric: results.best_of_front.metrics[metric] for metric in METRICS}
    clock = DeviceClock(torch.device("cpu"))
    timer = Timer(clock, repeats=REPEATS)
    medians = timer.medians(
        [as_in_use(predictions(run, each), clock) for each in detectors.values()]
    )
    pick = run.pick.evaluation
    assert pick is not None
    return {
        "set": name,
        "seed": seed,
        "metrics": metrics,
        "seconds": {key: each for key, (each,) in zip(detectors, medians, strict=True)},
        "disturbed": timer.disturbed,
        "search_seconds": None if resume else seconds,
        "table_seconds": pick.values.get("latency"),
        "pick": detector.architecture.describe(run.supernet),
        "known": sum(image.type != "good" for image in detector.known),
        "latency": None if run.latency_table is None else run.latency_table.describe(),
        "evaluations": run.evaluations,
        "optimizer": run.optimizer,
    }


def without_known(detector: Detector) -> Detector:
    """The detector without its known images."""
    lacking = copy.deepcopy(detector)
    lacking.update(remove=[image.name for image in detector.known])
    return lacking


def measured(run: Run, detector: Detector) -> dict[str, float]:
    """Metrics on the test set."""
    test = run.split.test
    maps = detector.predict([sample.image for sample in test]).anomaly_map
    masks = load_masks(test, detector.evaluation_size, run.reading)
    found = score_maps(maps, masks, [sample.type for sample in test])
    return {metric: found[metric] for metric in METRICS}


class _Told:
    """Prints each step once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.told: set[str] = set()

    def __call__(self, step: str, done: int, total: int) -> None:
        words = step.partition(":")[0]
        if words not in self.told:
            self.told.add(words)
            print(f"{self.where}: {words}", file=sys.stderr, flush=True)


def print_table(rows: Sequence[dict[str, Any]], sets: Sequence[str]) -> None:
    """Prints the means over the seeds."""
    print("| set | detector | rwAP | AP | image AUROC | ms an image |")
    print("|---|---|---|---|---|---|")
    for name in sets:
        of_set = [row for row in rows if row["set"] == name]
        for key, words in DETECTORS.items():
            cells = [spread([row["metrics"][key][metric] for row in of_set]) for metric in METRICS]
            seconds = [row["seconds"][key] for row in of_set if key in row["seconds"]]
            cells.append(f"{1e3 * statistics.mean(seconds):.1f}" if seconds else "")
            print(f"| {name} | {words} | {' | '.join(cells)} |")


def print_runs(rows: Sequence[dict[str, Any]]) -> None:
    """Prints every search."""
    print(
        "| set | seed | pick | rwAP | without known defects | PatchCore baseline | "
        "ms an image, timed / in the table | PatchCore baseline, ms | minutes to search |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        rwap = [
            f"{100 * row['metrics'][key]['rwAP']:.1f}" for key in ("pick", "without", "patchcore")
        ]
        minutes = row["search_seconds"]
        table = row["table_seconds"]
        cells = [
            *rwap,
            f"{1e3 * row['seconds']['pick']:.1f}" + (f" / {1e3 * table:.1f}" if table else ""),
            f"{1e3 * row['seconds']['patchcore']:.1f}",
            "resumed" if minutes is None else f"{minutes / 60:.1f}",
        ]
        print(f"| {row['set']} | {row['seed']} | {row['pick']} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--space", default="autopatch_s")
    parser.add_argument("--weights", default="auto")
    arguments = parser.parse_args()
    options = {"space": arguments.space, "weights": arguments.weights}
    record = Record(arguments.out / "results.jsonl", options)
    one = partial(searched, out=arguments.out, options=options)
    done = {(row["set"], row["seed"]) for row in record.results}
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            if (name, seed) not in done:
                record.add(one(name, seed))
    rows = [row for row in record.results if row["set"] in arguments.sets]
    rows.sort(key=lambda row: (arguments.sets.index(row["set"]), row["seed"]))
    machine = this_machine(torch.device("cpu"), 1)
    print(
        f"{arguments.space}, one shot of each type, {rows[0]['evaluations']} evaluations "
        f"({rows[0]['optimizer']}); {machine.describe()}. Test results in percent, mean ± standard "
        f"deviation of {arguments.seeds} seeds, which also draw the splits. Times are medians of "
        f"{REPEATS} images, taken alternately, each right after another image.\n"
    )
    print_table(rows, arguments.sets)
    print()
    print_runs(rows)


if __name__ == "__main__":
    main()
