"""Compares optimizers on the tables of `tabular.py`: the hypervolume of what they have evaluated.

    python benchmarks/optimizers.py --out runs/optimizers > benchmarks/results/optimizers.md

Each configuration of an optimizer searches each table with several seeds. It sees the latency and
the validation rwAP of a draw of the shots, as in a search. The figure goes to
`results/optimizers.png`. Results are kept in the folder `--out`, so that an interrupted run goes
on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pymoo.algorithms.moo.sms import SMSEMOA as PymooSMSEMOA  # noqa: N811
from pymoo.algorithms.moo.spea2 import SPEA2 as PymooSPEA2  # noqa: N811
from pymoo.algorithms.moo.spea2 import SPEA2Survival
from pymoo.algorithms.moo.unsga3 import UNSGA3 as PymooUNSGA3  # noqa: N811
from pymoo.util.ref_dirs import get_reference_directions

from autopatch.detector import DEFAULT_DEFECT_WEIGHT
from autopatch.genes import Choice
from autopatch.runs.initial import USUAL_STRIDES
from autopatch.search import GP, NSGA2, TPE, Optimizer, Score, SearchSpace
from autopatch.search.genetic import GeneticOptimizer
from autopatch.search.space import Genome
from record import Record
from tabular import RESULTS, SETS, Table

EVALUATIONS = 200
SEEDS = 21
SHOWN = (25, 50, 100, 200)
"""Numbers of evaluations whose hypervolume is printed."""

Curve = npt.NDArray[np.float64]


class SMSEMOA(GeneticOptimizer):
    """Survivors are chosen by their contribution to the hypervolume (Beume et al., 2007)."""

    algorithm = PymooSMSEMOA


class SPEA2(GeneticOptimizer):
    """Survivors are chosen by the number of those that dominate them and by density (Zitzler et
    al., 2001)."""

    @staticmethod
    def algorithm(**options: Any) -> PymooSPEA2:
        return PymooSPEA2(survival=SPEA2Survival(normalize=True), **options)


class UNSGA3(GeneticOptimizer):
    """Survivors are chosen by reference directions (Seada & Deb, 2016)."""

    @staticmethod
    def algorithm(*, pop_size: int, **options: Any) -> PymooUNSGA3:
        directions = get_reference_directions("das-dennis", 2, n_partitions=pop_size - 1)
        return PymooUNSGA3(directions, pop_size=pop_size, **options)


class RandomSearch:
    """Draws architectures at random, see `Optimizer`."""

    def __init__(self, space: SearchSpace, *, seed: int, initial: Sequence[Genome] = ()) -> None:
        self._space = space
        self._random = np.random.default_rng(seed)
        self._proposed: set[Genome] = set()
        self._initial = list(initial)

    def ask(self) -> list[Genome]:
        """One genome."""
        genome = self._initial.pop(0) if self._initial else self._space.sample(self._random)
        while genome in self._proposed:
            genome = self._space.sample(self._random)
        self._proposed.add(genome)
        return [genome]

    def tell(self, scores: Sequence[Score | None]) -> None:
        """Learns nothing."""


@dataclass(frozen=True)
class Problem:
    """A table as a search with one draw of the shots sees it.

    The hypervolume is that of log10 of the latency and of rwAP, with the highest latency of the
    table and rwAP 0 as the reference point. It is divided by that of the whole table.

    Attributes:
        table: The table.
        draw: Number of the draw.
    """

    table: Table
    draw: int

    @cached_property
    def latency(self) -> Curve:
        """Seconds of each architecture, `[A]`."""
        return self.table.columns["latency"][:, self.draw]

    @cached_property
    def quality(self) -> Curve:
        """Validation rwAP of each architecture, `[A]`."""
        return self.table.columns["validation"][:, self.draw]

    @cached_property
    def _points(self) -> Curve:
        """What the reference point is better by, `[A, 2]`."""
        cost = np.log10(self.latency)
        return np.stack([cost.max() - cost, self.quality], axis=1)

    @cached_property
    def _whole(self) -> float:
        return _area(self._points)

    def curve(self, optimizer: Optimizer, *, logarithmic: bool) -> Curve:
        """Hypervolume after each evaluation, `[EVALUATIONS]`.

        Args:
            optimizer: A new optimizer.
            logarithmic: Whether it is told the logarithm of the latency.
        """
        cost = np.log10(self.latency) if logarithmic else self.latency
        rows: list[int] = []
        while len(rows) < EVALUATIONS and (genomes := optimizer.ask()):
            asked = [self.table.places[genome] for genome in genomes]
            optimizer.tell([Score((float(cost[i]), float(1 - self.quality[i]))) for i in asked])
            rows += asked
        points = self._points[rows[:EVALUATIONS]]
        found = [_area(points[:count]) / self._whole for count in range(1, len(points) + 1)]
        return np.array(found + found[-1:] * (EVALUATIONS - len(found)))


def _area(points: Curve) -> float:
    """Area that is dominated by points, `[N, 2]`, both to be maximized, above (0, 0)."""
    ordered = points[np.lexsort((-points[:, 1], -points[:, 0]))]
    best = np.maximum.accumulate(ordered[:, 1])
    widths = ordered[:, 0] - np.append(ordered[1:, 0], 0.0)
    return float((widths * best).sum())


def _genome(space: SearchSpace, strides: Sequence[int], **values: Choice) -> Genome:
    """The genome with levels of these strides and values by field; the other genes are off."""
    chosen: dict[str, Choice] = {}
    for gene in space.genes:
        if gene.is_level:
            chosen[gene.name] = gene.name in {f"use_stride{stride}" for stride in strides}
        else:
            chosen[gene.name] = values.get(gene.field, gene.choices[0])
    return space.canonical(tuple(g.choices.index(chosen[g.name]) for g in space.genes))


def patchcore(table: Table) -> list[Genome]:
    """PatchCore's setting without known defects, with the nearest bank."""
    space, stride, size = table.space, 8, 224
    rows = int(table.about["fit_images"]) * (size // stride) ** 2 / 10
    banks = [int(str(bank)) for bank in space.choices("head", "bank_size")]
    bank = min(banks, key=lambda bank: abs(bank - rows))
    return [_genome(space, (8, 16), image_size=size, bank_size=bank, patch_size=3)]


def named(table: Table) -> list[Genome]:
    """PatchCore's setting; then, with known defects, it and two other sets of levels at each image
    size."""
    (baseline,) = patchcore(table)
    head = table.space.decode(baseline).head
    found = [baseline]
    for size in sorted(table.space.choices("input", "image_size"), key=int, reverse=True):
        values = {"image_size": size, "bank_size": head.bank_size, "patch_size": 3}
        for strides in USUAL_STRIDES:
            found.append(_genome(table.space, strides, defects=DEFAULT_DEFECT_WEIGHT, **values))
    return found


def corners(table: Table) -> list[Genome]:
    """With known defects: each level alone with the smallest and the largest values of the other
    genes of size, and all levels with the largest."""
    space = table.space
    strides = (4, 8, 16)
    ends = []
    for place in (0, -1):
        sizes = {
            name: sorted(int(str(value)) for value in space.choices(part, name))[place]
            for part, name in (
                ("input", "image_size"),
                ("head", "bank_size"),
                ("head", "patch_size"),
            )
        }
        ends.append({**sizes, "defects": DEFAULT_DEFECT_WEIGHT})
    smallest, largest = ends
    alone = [
        _genome(space, (stride,), **values) for values in (smallest, largest) for stride in strides
    ]
    return [*alone, _genome(space, strides, **largest)]


WARM_STARTS: dict[str, Callable[[Table], list[Genome]]] = {
    "nothing": lambda table: [],
    "PatchCore": patchcore,
    "named": named,
    "corners": corners,
    "named and corners": lambda table: list(dict.fromkeys([*named(table), *corners(table)])),
}
"""What an optimizer evaluates first, by name."""


@dataclass(frozen=True)
class Configuration:
    """An optimizer with its settings.

    Attributes:
        optimizer: The class.
        options: Arguments of the class beside space, seed and initial genomes.
        warm: What is evaluated first, a name in `WARM_STARTS`.
        logarithmic: Whether it is told the logarithm of the latency.
    """

    optimizer: Callable[..., Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    warm: str = "nothing"
    logarithmic: bool = False

    @property
    def name(self) -> str:
        """The name in the results."""
        words = [NAMES[self.optimizer]]
        words += [f"{name} {value}" for name, value in self.options.items()]
        words += ["log latency"] * self.logarithmic
        return ", ".join(words) + (f"; first {self.warm}" if self.warm != "nothing" else "")

    def curve(self, problem: Problem, seed: int) -> Curve:
        """Hypervolume after each evaluation."""
        optimizer = self.optimizer(
            problem.table.space,
            seed=seed,
            initial=WARM_STARTS[self.warm](problem.table),
            **self.options,
        )
        return problem.curve(optimizer, logarithmic=self.logarithmic)


NAMES: dict[Any, str] = {
    RandomSearch: "random",
    TPE: "TPE",
    GP: "GP",
    NSGA2: "NSGA-II",
    SMSEMOA: "SMS-EMOA",
    SPEA2: "SPEA2",
    UNSGA3: "U-NSGA-III",
}
REFERENCE = Configuration(TPE)
"""What the others are compared with: the optimizer of the published search."""
DEFAULT = Configuration(GP, warm="named")
"""What a search does by default; but there, every detector keeps known defects."""

POPULATIONS = (4, 6, 12, 24)


def configurations() -> list[Configuration]:
    """All configurations."""
    found = [Configuration(RandomSearch), REFERENCE, DEFAULT]
    found.append(Configuration(NSGA2, {"population": 12}, "PatchCore"))
    for optimizer in (NSGA2, SMSEMOA, SPEA2, UNSGA3):
        found += [Configuration(optimizer, {"population": n}) for n in POPULATIONS]
        for warm in ("named", "corners", "named and corners"):
            found.append(Configuration(optimizer, {"population": 12}, warm))
        found.append(Configuration(optimizer, {"population": 6}, "named and corners"))
        for options in ({"population": 6, "offspring": 1}, {"population": 12, "offspring": 6}):
            found.append(Configuration(optimizer, options))
        found.append(Configuration(optimizer, {"population": 12}, logarithmic=True))
    for optimizer in (GP, TPE):
        found += [Configuration(optimizer, warm=warm) for warm in ("nothing", "PatchCore", "named")]
    found.append(Configuration(TPE, logarithmic=True))
    return list({configuration.name: configuration for configuration in found}.values())


def curves(path: Path, table: Table, chosen: Sequence[Configuration]) -> dict[str, Curve]:
    """Curves `[SEEDS, EVALUATIONS]` by name of the configuration; the seeds take the draws in turn.
    Missing ones are computed and appended to a file."""
    record = Record(path, {"table": table.digest, "evaluations": EVALUATIONS})
    found = {(r["configuration"], r["draw"], r["seed"]): r["curve"] for r in record.results}
    runs = [(seed % len(table.draws), seed) for seed in range(SEEDS)]
    problems = [Problem(table, draw) for draw in range(len(table.draws))]
    result = {}
    for configuration in chosen:
        name = configuration.name
        began = time.monotonic()
        for draw, seed in runs:
            if (name, draw, seed) not in found:
                curve = configuration.curve(problems[draw], seed).round(5).tolist()
                found[name, draw, seed] = curve
                record.add({"configuration": name, "draw": draw, "seed": seed, "curve": curve})
        result[name] = np.array([found[name, draw, seed] for draw, seed in runs])
        print(
            f"{path.stem}: {name}: {100 * np.median(result[name], axis=0)[SHOWN[2] - 1]:.1f} after "
            f"{SHOWN[2]}, {time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return result


def reached(curve: Curve, goal: float) -> str:
    """The number of evaluations after which a median curve reaches a hypervolume."""
    above = np.flatnonzero(curve >= goal)
    return str(above[0] + 1) if len(above) else f"over {EVALUATIONS}"


def print_table(found: Mapping[str, Curve]) -> None:
    """Prints the configurations of a set, best first.

    Args:
        found: Curves by configuration.
    """
    goal = _median(found[REFERENCE.name])[-1]
    counts, means = " | ".join(map(str, SHOWN)), " / ".join(map(str, SHOWN[2:]))
    print(f"| configuration | {counts} | mean of {means} | as good as TPE after {EVALUATIONS} |")
    print("|---|" + "---|" * (len(SHOWN) + 2))
    for name in ranked({"": found}):
        cells = []
        for count in SHOWN:
            low, median, high = 100 * np.percentile(found[name][:, count - 1], (25, 50, 75))
            cells.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
        mean = 100 * found[name].mean(axis=0)
        cells.append(" / ".join(f"{mean[count - 1]:.1f}" for count in SHOWN[2:]))
        print(f"| {name} | {' | '.join(cells)} | {reached(_median(found[name]), goal)} |")


def _median(curves: Curve) -> Curve:
    return np.median(curves, axis=0)


def ranked(found: Mapping[str, Mapping[str, Curve]]) -> list[str]:
    """Configurations by the median hypervolume after 100 evaluations, best mean of the sets
    first."""
    at = SHOWN[2] - 1

    def mean(name: str) -> float:
        return float(np.mean([np.median(of_set[name][:, at]) for of_set in found.values()]))

    return sorted(next(iter(found.values())), key=mean, reverse=True)


def draw_figure(found: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Plots median and quartiles of the default, of TPE, and of the best configuration of each
    other optimizer."""
    shown: dict[str, str] = {}
    for name in (DEFAULT.name, REFERENCE.name, *ranked(found)):
        shown.setdefault(name.split(",")[0].split(";")[0], name)
    figure = Figure(figsize=(12.5, 5.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    counts = np.arange(1, EVALUATIONS + 1)
    for axes, (of_set, by_name) in zip(panels, found.items(), strict=True):
        for name in shown.values():
            low, median, high = 100 * np.percentile(by_name[name], (25, 50, 75), axis=0)
            (line,) = axes.plot(counts, median, label=name, lw=1.6)
            axes.fill_between(counts, low, high, color=line.get_color(), alpha=0.12, lw=0)
        goal = 100 * np.median(by_name[REFERENCE.name], axis=0)[-1]
        axes.axhline(goal, color="#8c8c8c", lw=0.8, ls="--")
        axes.set_title(of_set)
        axes.set_xlabel("evaluations")
        axes.set_xlim(1, EVALUATIONS)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("hypervolume (%)")
    panels[0].set_ylim(bottom=60)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    found = {}
    for name in arguments.sets:
        table = Table.load(RESULTS / f"{name}.npz")
        found[name] = curves(arguments.out / f"{name}.jsonl", table, configurations())
    print(
        "Hypervolume of log10 latency and validation rwAP after so many evaluations, in percent of "
        f"that of all {len(table.genomes):,} architectures; the reference point is the highest "
        f"latency and rwAP 0. Median (quartiles) of {SEEDS} seeds, which take the draws of the "
        "shots in turn."
    )
    for name, of_set in found.items():
        print(f"\n## {name}\n")
        print_table(of_set)
    draw_figure(found, RESULTS.parent / "optimizers.png")


if __name__ == "__main__":
    main()
