"""Runs searches with their defaults and compares their picks with PatchCore, paired.

    python benchmarks/evaluation.py --out runs/evaluation

Every unit, a set with some shots and a seed, adds a line to a file in `results/evaluation`: metrics
of the pick and of the others on the test set, their latencies, timed alternately, and rwAP on
resamples of the groups of test images, the same for all detectors of a set and seed. A unit that
was interrupted goes on. `evaluated.py` makes tables of the files. The protocol and the results are
in docs/evaluation.md.

The latency table is measured by the first search and kept in the folder `--out`, since it holds for
all sets.
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopatch.data import GOOD, MVTecAD, group_of, load_images, load_masks
from autopatch.detector import Architecture, Detector, patchcore_architecture, score_maps
from autopatch.runs import Run, run_search
from autopatch.runs.advice import baseline_trial
from autopatch.search import RULES, LatencyTable, Trial
from autopatch.search.bootstrap import Bootstrap
from autopatch.search.latency.timing import DeviceClock, Timer, as_in_use
from features import SHARED
from picking import SETS, SPACES
from record import Record

RESULTS = Path(__file__).parent / "results" / "evaluation"
COUNTS = (1, 0, 4)
SEEDS = 5
RESERVE = 4
PROTOCOL = "random"
METRICS = ("rwAP", "AP", "image_AUROC")
TIMED_IMAGES, REPEATS = 8, 24
DEFECT_WEIGHT = 0.5
ERRORS = {"half_error": 0.5, "whole_error": 1.0}


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


class Unit:
    """A data set with some shots and a seed, and the detectors of its searches.

    Args:
        space: The space.
        name: The data set.
        shots: Number of shots of each type.
        seed: The seed.
        out: Folder for searches and the latency table.
        protocol: How images are split.
    """

    def __init__(
        self, space: str, name: str, shots: int, seed: int, out: Path, protocol: str
    ) -> None:
        self.space, self.name, self.shots, self.seed = space, name, shots, seed
        self.protocol = protocol
        stem = space.removeprefix("timm:")
        self.folder = out / f"{stem_of(space, name, protocol)}_{shots}_{seed}"
        self._table = out / f"{stem}_latency.json"
        self.seconds: dict[str, float] = {}

    def search(self, key: str, **options: Any) -> Run:
        """A search with the defaults but for some options."""
        out = self.folder / key
        resume = (out / "study.db").is_file()
        began = time.monotonic()
        table = LatencyTable.load(self._table) if self._table.is_file() else None
        run = run_search(
            SHARED / "data" / self.name,
            out,
            space=self.space,
            weights=weights_of(self.space),
            shots=self.shots,
            seed=self.seed,
            reserve=RESERVE,
            protocol=self.protocol,
            groups=groups_of_tiles(self.folder) if self.name == "magnetic_tile" else None,
            latency_table=table,
            resume=resume,
            **options,
        )
        if not resume:
            self.seconds[key] = time.monotonic() - began
        if not self._table.is_file():
            assert run.latency_table is not None
            run.latency_table.save(self._table)
        return run

    def evaluate(self, *, alone: bool) -> dict[str, Any]:
        """The results of all detectors. With one shot these include the published rule, which
        searches without known defects, and PatchCore tuned with known defects; each is also
        measured with the other choice.

        Args:
            alone: Whether to leave out these two searches.
        """
        run = self.search("pick")
        architectures = {key: trial.architecture for key, trial in picks(run).items()}
        baseline = patchcore_architecture(run.supernet, images=len(run.good))
        assert baseline is not None
        architectures["patchcore"] = baseline
        architectures["same_size"] = at_size(run, architectures["pick"].input.size)
        if self.shots:
            architectures["without"] = with_weight(architectures["pick"], None)
            architectures["patchcore_known"] = with_weight(baseline, DEFECT_WEIGHT)
        if self.shots == 1 and not alone:
            published = self.search("published", rule="best", fixed={"defects": None})
            tuned = self.search("tuned", rule="best", fixed=tuned_genes(run))
            for key, found in (("published", published), ("tuned", tuned)):
                own = found.pick.architecture
                architectures[key] = with_weight(own, None)
                known = own if own.head.defects else with_weight(own, DEFECT_WEIGHT)
                architectures[f"{key}_known"] = known
        return self._measure(run, architectures)

    def _measure(self, run: Run, architectures: dict[str, Architecture]) -> dict[str, Any]:
        measured = Evaluated(run)
        fitted = fit_all(run, dict.fromkeys(architectures.values()))
        results = {a: measured(detector) for a, detector in fitted.items()}
        clock = DeviceClock(torch.device("cpu"))
        timer = Timer(clock, repeats=REPEATS)
        works = [as_in_use(predictions(run, each), clock) for each in fitted.values()]
        for architecture, (median,) in zip(fitted, timer.medians(works), strict=True):
            results[architecture]["seconds"] = median
            results[architecture]["architecture"] = architecture.describe(run.supernet)
        pick = run.pick.evaluation
        assert pick is not None
        return {
            "space": self.space,
            "set": self.name,
            "protocol": self.protocol,
            "shots": self.shots,
            "seed": self.seed,
            "evaluations": run.evaluations,
            "search_seconds": self.seconds.get("pick"),
            "good": measured.types.count(GOOD),
            "anomalous": len(measured.types) - measured.types.count(GOOD),
            "validation": {key: v for key, v in pick.metrics.items() if "robust" in key},
            "detectors": {key: results[a] for key, a in architectures.items()},
        }


def picks(run: Run) -> dict[str, Trial]:
    """What rules pick from the candidates of a search.

    The default ("pick"), the highest robust rwAP, the cheapest within a half and a whole
    standard error of it, the knee, and the highest among those that are not slower than the
    PatchCore baseline.
    """
    front, baseline = run.front, baseline_trial(run)
    assert baseline is not None
    assert baseline.evaluation is not None
    bound = baseline.evaluation.values["latency"]
    highest = max(front.trials, key=lambda trial: trial.evaluation.values["robust_rwAP"])
    fast = [t for t in front.trials if t.evaluation and t.evaluation.values["latency"] <= bound]
    return {
        "pick": front.pick,
        "highest": highest,
        **{name: cheapest_within(front.trials, highest, e) for name, e in ERRORS.items()},
        "knee": front.pick_by(RULES["knee"]),
        "as_fast": max(fast, key=lambda trial: trial.evaluation.values["robust_rwAP"]),
    }


def cheapest_within(trials: Sequence[Trial], highest: Trial, errors: float) -> Trial:
    """The trial of the lowest latency whose quality is at most so many standard errors of the
    difference below the highest."""

    def is_near(trial: Trial) -> bool:
        differences = highest.evaluation.differences(trial.evaluation, "robust_rwAP")
        values = [t.evaluation.values["robust_rwAP"] for t in (highest, trial)]
        return values[0] - values[1] <= errors * statistics.pstdev(differences)

    return min(filter(is_near, trials), key=lambda trial: trial.evaluation.values["latency"])


def stem_of(space: str, name: str, protocol: str) -> str:
    """The name of the results of a space, a data set and a way to split it."""
    parts = [space.removeprefix("timm:"), name]
    return "_".join(parts if protocol == PROTOCOL else [*parts, protocol])


def weights_of(space: str) -> str:
    """The trained weights of a backbone."""
    if not space.startswith("timm:"):
        return "auto"
    return str(SHARED / "weights" / f"{space.removeprefix('timm:')}.safetensors")


def groups_of_tiles(folder: Path) -> Path:
    """Writes the groups of magnetic_tile. The numbers in the file names grow with the tile; a gap
    of more than 60 is taken for a new tile."""
    root = SHARED / "data" / "magnetic_tile"
    dataset = MVTecAD.scan(root)
    samples = (*dataset.train, *dataset.test)
    numbered = sorted((int(re.findall(r"num_(\d+)", s.image.name)[0]), s.image) for s in samples)
    lines, group, last = ["file,group"], -1, -61
    for number, image in numbered:
        group += number - last > 60
        last = number
        lines.append(f"{image.relative_to(root).as_posix()},{group}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "groups.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


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


def at_size(run: Run, size: int) -> Architecture:
    """The PatchCore baseline at another image size, with a coreset of 10 % of the patches."""
    baseline = patchcore_architecture(run.supernet, images=len(run.good))
    assert baseline is not None
    height, width = run.supernet.grid(baseline.backbone, size)
    rows = max(round(len(run.good) * height * width / 10), 1)
    head = replace(baseline.head, bank_size=rows)
    return replace(baseline, input=replace(baseline.input, size=size), head=head)


def with_weight(architecture: Architecture, weight: float | None) -> Architecture:
    """The architecture with another weight of known defects."""
    return replace(architecture, head=replace(architecture.head, defects=weight))


def fit_all(run: Run, architectures: Collection[Architecture]) -> dict[Architecture, Detector]:
    """Fits detectors. One without known defects is that with them, less the defects, if both are
    asked for."""
    known = {with_weight(a, None): a for a in architectures if a.head.defects}
    fitted = {a: run.fit_architecture(a) for a in architectures if a not in known}
    return {a: fitted[a] if a in fitted else without_known(fitted[known[a]]) for a in architectures}


def without_known(detector: Detector) -> Detector:
    """A copy of a detector without its known images."""
    lacking = copy.deepcopy(detector)
    lacking.update(remove=[image.name for image in detector.known])
    return lacking


def predictions(run: Run, detector: Detector) -> Callable[[], None]:
    """Predicts one decoded image after the other."""
    paths = [sample.image for sample in run.split.test[:TIMED_IMAGES]]
    images = cycle(load_images(paths, detector.architecture.input.size, run.reading).split(1))

    def run_once() -> None:
        detector.predict(next(images)).pred_score.tolist()

    return run_once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default=SPACES[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS))
    parser.add_argument("--protocol", default=PROTOCOL)
    parser.add_argument("--alone", action="store_true", help="search for the default pick alone")
    arguments = parser.parse_args()
    space, protocol = arguments.space, arguments.protocol
    for seed, shots, name in product(arguments.seeds, arguments.counts, arguments.sets):
        path = RESULTS / f"{stem_of(space, name, protocol)}.jsonl"
        record = Record(path, {"space": space, "set": name, "protocol": protocol})
        if any((shots, seed) == (r["shots"], r["seed"]) for r in record.results):
            continue
        began = time.monotonic()
        unit = Unit(space, name, shots, seed, arguments.out, protocol)
        result = unit.evaluate(alone=arguments.alone)
        record.add(result)
        shutil.rmtree(unit.folder)
        rwap = {
            key: round(100 * each["metrics"]["rwAP"], 1)
            for key, each in result["detectors"].items()
        }
        print(name, shots, seed, rwap, f"{(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
