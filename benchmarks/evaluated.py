"""Makes tables of the full runs of `evaluation.py`.

python benchmarks/evaluated.py > benchmarks/results/evaluation.md
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation import PROTOCOL, RESULTS
from scenes import spread

WORDS = {
    "pick": "default pick",
    "highest": "highest robust rwAP",
    "half_error": "cheapest within half a standard error",
    "whole_error": "cheapest within a standard error",
    "knee": "knee",
    "as_fast": "highest robust rwAP no slower than PatchCore",
    "without": "default pick without known defects",
    "published": "published rule",
    "published_known": "its pick with known defects",
    "tuned_known": "PatchCore tuned on the shots, known defects",
    "tuned": "its pick without known defects",
    "patchcore": "PatchCore",
    "same_size": "PatchCore at the image size of the default pick",
    "patchcore_known": "PatchCore, known defects",
}
"""The detectors, in the order of the tables."""

COMPARED = ("published", "published_known", "tuned_known", "tuned", "patchcore", "same_size")
DRAWS = 10_000

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Results of some number of shots by data set, one for each seed."""


def difference(
    results: Results, one: str, other: str, rng: np.random.Generator
) -> tuple[float, npt.NDArray[np.float64]]:
    """The pooled difference of rwAP, in points, and the same drawn anew `DRAWS` times.

    The pooled difference is the mean over sets of the mean over seeds. A draw takes seeds with
    repetition, and adds the noise of one resample of test groups of one seed to each set. The test
    images of all seeds are nearly the same, so their noise is not averaged.
    """
    pooled, drawn = [], []
    for of_set in results.values():
        gains = np.array([_rwap(r, one) - _rwap(r, other) for r in of_set])
        noise = np.concatenate([_resampled(r, one, other) for r in of_set])
        pooled.append(gains.mean())
        chosen = rng.integers(len(gains), size=(DRAWS, len(gains)))
        drawn.append(gains[chosen].mean(axis=1) + rng.choice(noise, DRAWS))
    return float(np.mean(pooled)), np.mean(drawn, axis=0)


def _rwap(result: Mapping[str, Any], key: str) -> float:
    return 100 * float(result["detectors"][key]["metrics"]["rwAP"])


def _resampled(result: Mapping[str, Any], one: str, other: str) -> npt.NDArray[np.float64]:
    """How far each resample of the test groups lies from the mean of all, in points."""
    values = [
        np.array([np.nan if v is None else v / 100 for v in result["detectors"][key]["resampled"]])
        for key in (one, other)
    ]
    found = values[0] - values[1]
    found = found[np.isfinite(found)]
    return found - found.mean()


def with_detector(results: Results, key: str) -> Results:
    """The results that have a detector; some have only one of the three searches."""
    found = {name: [r for r in of_set if key in r["detectors"]] for name, of_set in results.items()}
    return {name: of_set for name, of_set in found.items() if of_set}


def print_rwap(results: Results) -> None:
    """Prints rwAP and latency of all detectors."""
    print("| detector | " + " | ".join(results) + " | mean | times the latency of PatchCore |")
    print("|---|" + "---|" * (len(results) + 2))
    for key, words in WORDS.items():
        some = with_detector(results, key)
        if len(some) < len(results):
            continue
        of_sets = [[_rwap(r, key) / 100 for r in of_set] for of_set in some.values()]
        cells = [spread(values) for values in of_sets]
        overall = 100 * statistics.mean(map(statistics.mean, of_sets))
        ratios = [
            r["detectors"][key]["seconds"] / r["detectors"]["patchcore"]["seconds"]
            for of_set in some.values()
            for r in of_set
        ]
        slower = statistics.geometric_mean(ratios)
        print(f"| {words} | {' | '.join(cells)} | {overall:.1f} | {slower:.2f} |")


def print_differences(results: Results, counts: int) -> None:
    """Prints how far the default pick lies above the others.

    Args:
        results: The results.
        counts: Number of comparisons that the intervals are corrected for.
    """
    rng = np.random.default_rng(0)
    tail = 0.05 / counts / 2
    print("| default pick against | pooled difference | interval | higher in | of sets |")
    print("|---|---|---|---|---|")
    for key in COMPARED:
        some = with_detector(results, key)
        if len(some) < len(results):
            continue
        pooled, drawn = difference(some, "pick", key, rng)
        low, high = np.quantile(drawn, [tail, 1 - tail])
        gains = [[_rwap(r, "pick") - _rwap(r, key) for r in of_set] for of_set in some.values()]
        runs = [gain > 0 for of_set in gains for gain in of_set]
        sets = [statistics.mean(of_set) > 0 for of_set in gains]
        print(
            f"| {WORDS[key]} | {pooled:+.1f} | {low:+.1f} to {high:+.1f} | {sum(runs)} of "
            f"{len(runs)} runs | {sum(sets)} of {len(sets)} |"
        )


def print_runs(results: Results) -> None:
    """Prints every default pick."""
    print(
        "| set | seed | rwAP | PatchCore | ms an image | PatchCore, ms | false alarms | missed | "
        "minutes to search | pick |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, of_set in results.items():
        for result in sorted(of_set, key=lambda r: r["seed"]):
            pick, other = (result["detectors"][key] for key in ("pick", "patchcore"))
            seconds = result["search_seconds"]
            cells = [
                f"{_rwap(result, 'pick'):.1f}",
                f"{_rwap(result, 'patchcore'):.1f}",
                f"{1e3 * pick['seconds']:.1f}",
                f"{1e3 * other['seconds']:.1f}",
                f"{pick['false_alarms']} of {result['good']}",
                f"{pick['missed']} of {result['anomalous']}",
                "resumed" if seconds is None else f"{seconds / 60:.1f}",
                pick["architecture"],
            ]
            print(f"| {name} | {result['seed']} | {' | '.join(cells)} |")


def read(folder: Path) -> dict[tuple[str, str, int], dict[str, list[dict[str, Any]]]]:
    """All results, by protocol, space and number of shots, then by set."""
    found: dict[tuple[str, str, int], dict[str, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines()[1:]:
            result = json.loads(line)
            key = (result["protocol"], result["space"], result["shots"])
            found[key][result["set"]].append(result)
    return found


def _order(item: tuple[tuple[str, str, int], object]) -> tuple[bool, tuple[str, str, int]]:
    return item[0][0] != PROTOCOL, item[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = read(arguments.results)
    print("Test rwAP in percent, mean ± standard deviation over seeds if there are several.")
    for (protocol, space, shots), results in sorted(found.items(), key=_order):
        seeds = {name: len(of_set) for name, of_set in results.items()}
        print(f"\n## {space}, {shots} shots of each type, protocol {protocol}\n")
        print("Seeds: " + ", ".join(f"{name} {count}" for name, count in seeds.items()) + ".\n")
        print_rwap(results)
        counts = sum(len(with_detector(results, key)) == len(results) for key in COMPARED)
        print(
            f"\nIntervals: 95 %, corrected for {counts} comparisons, over groups of test images "
            "and over seeds; with one seed, over test images alone.\n"
        )
        print_differences(results, counts)
        print()
        print_runs(results)


if __name__ == "__main__":
    main()
