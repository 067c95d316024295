"""Compares rules of picking a detector on the tables of `picking.py`, without images.

    python benchmarks/rules.py > benchmarks/results/rules.md

A rule sees what a search sees: the rwAP on the shots of a draw, and on each kind of synthetic
anomaly. It picks one of the detectors, and its result is the rwAP of that detector on the test set.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from picking import BY_SIZE, PREFIXES, RESULTS, SETS, SHOTS, TRANSPLANT, Table
from scenes import mean

KIND_SETS = {
    "all kinds": ("scratch", "texture", "cutpaste", "blur", "tone", "warp"),
    "all and transplants": (
        "scratch",
        "texture",
        "cutpaste",
        "blur",
        "tone",
        "warp",
        "transplant",
    ),
    "without blur and warp": ("scratch", "texture", "cutpaste", "tone"),
    "scratch, texture, cutpaste": ("scratch", "texture", "cutpaste"),
}
Values: TypeAlias = npt.NDArray[np.float64]

COMBINATIONS: Mapping[str, Callable[[Values], Values]] = {
    "mean": lambda values: np.nanmean(values, axis=1),
    "mean of square roots": lambda values: np.nanmean(np.sqrt(values), axis=1),
    "mean of logarithms": lambda values: np.nanmean(np.log(values + 0.001), axis=1),
    "mean rank": lambda values: np.nanmean(values.argsort(axis=0).argsort(axis=0), axis=1),
}
"""Ways to combine the rwAP of kinds, `[detectors, kinds]`. The mean rank depends on the other
detectors, so a search cannot use it as an objective; it is here for comparison."""

TOLERANCE = 0.05


def _least_gain(values: Values, baseline: int) -> Values:
    of_sizes = np.nanmean(values[..., [4, 6, 8]], axis=1)
    gains: Values = (of_sizes - of_sizes[baseline]).min(axis=1)
    return gains


def _guarded(values: Values, baseline: int) -> Values:
    largest = np.nanmean(values[..., 8], axis=1)
    is_poor = largest < largest[baseline] - TOLERANCE
    return np.where(is_poor, -np.inf, np.nanmean(values[..., 0], axis=1))


SIZED: Mapping[str, Callable[[Values, int], Values]] = {
    "mean rwAP (default)": lambda values, _: np.nanmean(values[..., 0], axis=1),
    "mean AP": lambda values, _: np.nanmean(values[..., 2], axis=1),
    "mean AP of the largest third": lambda values, _: np.nanmean(values[..., 8], axis=1),
    "least gain over PatchCore in AP, over thirds": _least_gain,
    "mean rwAP, without poor AP of the largest third": _guarded,
}
"""Qualities that know the sizes of synthetic anomalies: values of kinds `[detectors, kinds,
BY_SIZE]` and the place of PatchCore's usual setting. AP is poor more than `TOLERANCE` below it."""

OFFSETS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, np.inf)
"""The shots weigh k / (k + offset), so 1 for 0, and 0 for infinity."""

PATCHCORE = {"size": 224, "strides": [8, 16], "patch": 3, "smoothing": 0.0}
FIXED = {**PATCHCORE, "strides": [4, 8]}

Picked = Mapping[int, Sequence[float]]
"""Test rwAP of the picks of all draws, by number of shots."""

Rule = Callable[[Table, int], float]
"""The test rwAP of the detector that is picked for a draw."""


@dataclass(frozen=True)
class Robust:
    """The robust rule with some parameters.

    Attributes:
        kinds: Name of the kinds, in `KIND_SETS`.
        combination: Name of the way to combine them, in `COMBINATIONS`.
        offset: The shots weigh k / (k + offset).
        known: Whether detectors keep the shots as known defects.
    """

    kinds: str
    combination: str
    offset: float
    known: bool = True

    def __call__(self, table: Table, draw: int) -> float:
        pool = detectors(table, known=self.known and table.draws[draw].count > 0)
        return float(table.test[pool[self.order(table, draw, pool)[-1]], draw, 0])

    def order(self, table: Table, draw: int, pool: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The detectors of a pool from worst to best."""
        combine = COMBINATIONS[self.combination]
        columns = [table.kinds.index(kind) for kind in KIND_SETS[self.kinds]]
        quality = combine(table.synthetic[pool, draw][:, columns, 0])
        count = table.draws[draw].count
        if count:
            weight = count / (count + self.offset)
            of_shots = combine(table.shots[pool, draw, 0][:, None])
            quality = (1 - weight) * quality + weight * of_shots
        return quality.argsort(kind="stable")


@dataclass(frozen=True)
class Sized:
    """A rule that knows the sizes of synthetic anomalies; transplants count, and the shots weigh
    k / (k + 4).

    Attributes:
        quality: Its name, in `SIZED`.
    """

    quality: str

    def __call__(self, table: Table, draw: int) -> float:
        count = table.draws[draw].count
        pool = detectors(table, known=count > 0)
        (patchcore,) = detectors(table, known=count > 0, **PATCHCORE)
        baseline = pool.tolist().index(patchcore)
        quality = SIZED[self.quality](table.synthetic[pool, draw], baseline)
        if count:
            weight = count / (count + 4)
            quality = (1 - weight) * quality + weight * table.shots[pool, draw, 0]
        return float(table.test[pool[quality.argsort(kind="stable")[-1]], draw, 0])


def detectors(table: Table, *, known: bool, **values: object) -> npt.NDArray[np.int64]:
    """The detectors with or without known defects that have some values."""
    return np.array(
        [
            place
            for place, detector in enumerate(table.detectors)
            if (detector["weight"] is not None) == known
            and all(detector[name] == value for name, value in values.items())
        ]
    )


def on_shots(table: Table, draw: int, *, known: bool, **values: object) -> float:
    """The published rule: the highest rwAP on the shots."""
    pool = detectors(table, known=known, **values)
    return float(table.test[pool[np.nanargmax(table.shots[pool, draw, 0])], draw, 0])


def alone(table: Table, draw: int, *, known: bool, **values: object) -> float:
    """One fixed detector."""
    (place,) = detectors(table, known=known, **values)
    return float(table.test[place, draw, 0])


def average(table: Table, draw: int) -> float:
    """A random detector, on average."""
    pool = detectors(table, known=table.draws[draw].count > 0)
    return float(table.test[pool, draw, 0].mean())


def best(table: Table, draw: int) -> float:
    """The best detector by the test labels."""
    pool = detectors(table, known=table.draws[draw].count > 0)
    return float(table.test[pool, draw, 0].max())


BASELINES: Mapping[str, tuple[Rule, bool]] = {
    "PatchCore": (partial(alone, known=False, **PATCHCORE), False),
    "PatchCore with known defects": (partial(alone, known=True, **PATCHCORE), True),
    "PatchCore tuned on the shots": (partial(on_shots, known=False, strides=[8, 16]), True),
    "the same with known defects": (partial(on_shots, known=True, strides=[8, 16]), True),
    "strides 4 and 8": (partial(alone, known=False, **FIXED), False),
    "the same with known defects ": (partial(alone, known=True, **FIXED), True),
    "random detector": (average, False),
    "published rule": (partial(on_shots, known=False), True),
    "published rule, known defects": (partial(on_shots, known=True), True),
    "best by the test labels": (best, False),
}
"""Other ways to choose a detector, and whether they need shots."""


def picked(rule: Rule, table: Table, counts: Iterable[int]) -> Picked:
    """What a rule picks for every draw of some numbers of shots."""
    return {
        count: [rule(table, n) for n, draw in enumerate(table.draws) if draw.count == count]
        for count in counts
    }


def mean_regret(rule: Rule, tables: Mapping[str, Table]) -> float:
    """How far the picks lie below the best by the test labels, mean over tables, then draws."""
    counts = (0, *SHOTS)
    regrets = []
    for table in tables.values():
        found, bound = picked(rule, table, counts), picked(best, table, counts)
        regrets += [
            statistics.mean(b - f for b, f in zip(bound[k], found[k], strict=True)) for k in counts
        ]
    return statistics.mean(regrets)


def all_robust() -> list[Robust]:
    """The robust rule with every choice of its parameters."""
    return [Robust(*values) for values in product(KIND_SETS, COMBINATIONS, OFFSETS)]


def set_of(name: str) -> str:
    """The data set of a table."""
    return next(each for each in SETS if name.endswith(each))


def space_of(name: str) -> str:
    """The backbone of a table."""
    return name.removesuffix(f"_{set_of(name)}")


def rules_of(chosen: Robust) -> dict[str, tuple[Rule, bool]]:
    """All rules, and whether they need shots."""
    plain = replace(chosen, known=False)
    return {
        **BASELINES,
        "robust without known defects": (plain, True),
        "robust (default)": (chosen, False),
    }


def print_rules(tables: Mapping[str, Table], chosen: Robust) -> None:
    """Prints the results of all rules for every number of shots: all backbones together, then each.

    Cells are means over draws and backbones, and the mean over backbones of the deviation over
    draws."""
    spaces = dict.fromkeys(map(space_of, tables))
    for count in (0, *SHOTS):
        for of_spaces in (list(spaces), *([space] for space in spaces if len(spaces) > 1)):
            words = "all backbones" if len(of_spaces) > 1 else of_spaces[0]
            print(f"\n### {count} shots of each type, {words}\n")
            some = {name: t for name, t in tables.items() if space_of(name) in of_spaces}
            sets = [each for each in SETS if any(set_of(name) == each for name in some)]
            print("| rule | " + " | ".join(sets) + " | mean | regret |")
            print("|---|" + "---|" * (len(sets) + 2))
            bounds = {name: picked(best, table, [count])[count] for name, table in some.items()}
            for rule_name, (rule, needs_shots) in rules_of(chosen).items():
                if needs_shots and not count:
                    continue
                found = {name: picked(rule, table, [count])[count] for name, table in some.items()}
                regrets = [
                    [b - f for b, f in zip(bounds[name], found[name], strict=True)] for name in some
                ]
                columns = [[found[n] for n in some if set_of(n) == each] for each in sets]
                overall = statistics.mean(statistics.mean(map(statistics.mean, c)) for c in columns)
                cells = [*map(_cell, columns), f"{100 * overall:.1f}", _cell(regrets)]
                print(f"| {rule_name.strip()} | {' | '.join(cells)} |")


def _cell(parts: Sequence[Sequence[float]]) -> str:
    """Mean of the means of all parts, and of their standard deviations, in percent."""
    deviations = [statistics.stdev(part) if len(part) > 1 else 0.0 for part in parts]
    return (
        f"{100 * statistics.mean(map(statistics.mean, parts)):.1f} ± "
        f"{100 * statistics.mean(deviations):.1f}"
    )


def print_pairs(tables: Mapping[str, Table], chosen: Robust) -> None:
    """Prints how far the picks of the default lie above those of other rules: mean over tables,
    and its interval if the draws of each table are drawn anew."""
    rng = np.random.default_rng(0)
    compared = {name: rule for name, (rule, _) in rules_of(chosen).items() if rule != chosen}
    tail = 0.05 / (len(compared) * len(SHOTS)) / 2
    print("| default against | " + " | ".join(f"k = {count}" for count in SHOTS) + " |")
    print("|---|" + "---|" * len(SHOTS))
    for name, rule in compared.items():
        cells = []
        for count in SHOTS:
            gains = [
                np.subtract(
                    picked(chosen, table, [count])[count], picked(rule, table, [count])[count]
                )
                for table in tables.values()
            ]
            drawn = [rng.choice(of, (10_000, len(of))).mean(axis=1) for of in gains]
            low, high = np.quantile(np.mean(drawn, axis=0), [tail, 1 - tail])
            mean_gain = np.mean([of.mean() for of in gains])
            higher = sum(of.mean() > 0 for of in gains)
            cells.append(
                f"{100 * mean_gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}); {higher} of "
                f"{len(gains)}"
            )
        print(f"| {name.strip()} | {' | '.join(cells)} |")


def print_parameters(tables: Mapping[str, Table]) -> None:
    """Prints the mean regret of the robust rule by its parameters."""
    print("| kinds | combination | " + " | ".join(f"k / (k + {o:g})" for o in OFFSETS) + " |")
    print("|---|---|" + "---|" * len(OFFSETS))
    for kinds, combination in product(KIND_SETS, COMBINATIONS):
        cells = [
            f"{100 * mean_regret(Robust(kinds, combination, offset), tables):.2f}"
            for offset in OFFSETS
        ]
        print(f"| {kinds} | {combination} | {' | '.join(cells)} |")


def print_left_out(tables: Mapping[str, Table], chosen: Robust) -> None:
    """Prints, for each set, the parameters that the other sets choose and what they cost on it."""
    print("| set | parameters that the other sets choose | regret | of the default |")
    print("|---|---|---|---|")
    for name in dict.fromkeys(map(set_of, tables)):
        others = {key: table for key, table in tables.items() if set_of(key) != name}
        own = {key: table for key, table in tables.items() if set_of(key) == name}
        found = min(all_robust(), key=lambda rule: mean_regret(rule, others))
        print(
            f"| {name} | {found.kinds}, {found.combination}, k / (k + {found.offset:g}) | "
            f"{100 * mean_regret(found, own):.2f} | {100 * mean_regret(chosen, own):.2f} |"
        )


def print_counts(tables: Mapping[str, Table]) -> None:
    """Prints how well the mean over kinds ranks the detectors, by number of images of each kind."""
    print("| table | " + " | ".join(f"{count} of each kind" for count in PREFIXES) + " |")
    print("|---|" + "---|" * len(PREFIXES))
    for name, table in tables.items():
        pool = detectors(table, known=False)
        cells = []
        for place in range(len(PREFIXES)):
            quality = table.prefixes[pool, place].mean(axis=1)
            last = table.prefixes[pool, -1].mean(axis=1)
            test = table.test[pool, 0, 0]
            cells.append(
                f"{spearmanr(quality, test).statistic:.2f} "
                f"({spearmanr(quality, last).statistic:.2f}, {mean([test[quality.argmax()]])})"
            )
        print(f"| {name} | {' | '.join(cells)} |")


def print_sizes(tables: Mapping[str, Table]) -> None:
    """Prints how well synthetic anomalies of each size rank the detectors without known defects."""
    columns = {
        f"{metric}, {size}": 3 + 2 * place + (metric == "AP")
        for metric in ("rwAP", "AP")
        for place, size in enumerate(("smallest third", "middle third", "largest third"))
    }
    columns = {"rwAP, all": 0, "AP, all": 2, **columns}
    print(f"| table | {' | '.join(columns)} |")
    print("|---|" + "---|" * len(columns))
    plain = [kind != TRANSPLANT for kind in next(iter(tables.values())).kinds]
    for name, table in tables.items():
        pool = detectors(table, known=False)
        test = table.test[pool, 0, 0]
        cells = []
        for column in columns.values():
            quality = table.synthetic[pool, 0][:, plain, column].mean(axis=1)
            cells.append(
                f"{spearmanr(quality, test).statistic:.2f} ({mean([test[quality.argmax()]])})"
            )
        print(f"| {name} | {' | '.join(cells)} |")


def print_sized(tables: Mapping[str, Table]) -> None:
    """Prints what rules that know sizes pick, and their regret."""
    counts = (0, *SHOTS)
    print(f"| quality | {' | '.join(tables)} | regret |")
    print("|---|" + "---|" * (len(tables) + 1))
    rules: dict[str, Rule] = {name: Sized(name) for name in SIZED}
    for name, rule in {**rules, "best by the test labels": best}.items():
        cells = [
            " / ".join(mean(of) for of in picked(rule, table, counts).values())
            for table in tables.values()
        ]
        print(f"| {name} | {' | '.join(cells)} | {100 * mean_regret(rule, tables):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    tables = {path.stem: Table.load(path) for path in sorted(arguments.tables.glob("*.npz"))}
    chosen = Robust("all and transplants", "mean", 4.0)
    print(
        "## Rules\n\nTest rwAP in percent, mean ± standard deviation over draws of shots. Regret: "
        "how far the picks lie below the best by the test labels that knows the same shots."
    )
    print_rules(tables, chosen)
    print(
        "\n## The default in pairs\n\nPoints of test rwAP, mean over tables; in brackets the 95 % "
        "interval over draws of shots, corrected for the number of comparisons; then the number of "
        "tables on which the mean over draws is higher.\n"
    )
    print_pairs(tables, chosen)
    print(
        "\n## Parameters of the robust rule\n\nMean regret in points: how far the picks lie "
        "below the best by the test labels.\n"
    )
    print_parameters(tables)
    print("\n## Each set judged with the parameters that the others choose\n")
    print_left_out(tables, chosen)
    print(
        "\n## Number of synthetic anomalies\n\nRank correlation of the mean over kinds with test "
        "rwAP (in brackets: with the mean of all images, and the test rwAP of the pick).\n"
    )
    print_counts(tables)
    print(
        "\n## Size of the synthetic anomalies\n\nRank correlation of the mean over kinds with test "
        "rwAP at k = 0, and the test rwAP of the pick. Thirds of the anomalies of each kind. "
        "Tables that lack these values are left out.\n"
    )
    sized = {name: t for name, t in tables.items() if t.synthetic.shape[-1] == BY_SIZE}
    print_sizes(sized)
    print(
        "\nRules that know sizes: test rwAP at k = 0 / 1 / 2 / 4, and the mean regret in points. "
        f"AP is poor if it is more than {100 * TOLERANCE:g} points below that of PatchCore's usual "
        "setting.\n"
    )
    print_sized(sized)


if __name__ == "__main__":
    main()
