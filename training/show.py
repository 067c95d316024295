"""Shows the results of judge.py: a table for the model card, and a plot of rwAP by multiply-adds.

python training/show.py RUN/judged.jsonl --figure docs/images/autopatch_s.png
    --other-seed RUN_2/judged.jsonl     # rank correlation of subnets with another seed
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from judge import LEVEL_SETS
from scipy.stats import kendalltau

Row = dict[str, Any]


def value(row: Row, data: str, levels: str, metric: str) -> float:
    """Mean of a metric over the splits, in percent."""
    return 100 * statistics.mean(row["detectors"][data][levels][metric])


def table(rows: list[Row], data: str, levels: str) -> list[str]:
    """Lines of a Markdown table; subnets are chosen by rwAP on this data set and these levels."""

    def rwap(row: Row) -> float:
        return value(row, data, levels, "rwAP")

    def macs(row: Row) -> int:
        return int(row["macs"][levels])

    (teacher,) = (row for row in rows if row["kind"] == "teacher")
    lines = [
        "| network | MMAC | rwAP | of the teacher's | AP | image AUROC |",
        "|---|---|---|---|---|---|",
    ]

    def add(name: str, row: Row | None) -> None:
        if row is None:
            return
        metrics = [value(row, data, levels, name) for name in ("rwAP", "AP", "image_AUROC")]
        share = f"{100 * metrics[0] / rwap(teacher):.0f} %"
        cells = [f"{metrics[0]:.1f}", share, *(f"{metric:.1f}" for metric in metrics[1:])]
        lines.append(f"| {name} | {macs(row) / 1e6:.0f} | {' | '.join(cells)} |")

    add("teacher", teacher)
    for kind in ("trained", "before training"):
        subnets = [row for row in rows if row["kind"] == kind]
        largest = [row for row in subnets if macs(row) == macs(teacher)]
        others = [row for row in subnets if row not in largest]
        half = [row for row in others if macs(row) <= macs(teacher) / 2]
        choices: list[tuple[str, list[Row], Callable[..., Row]]] = [
            ("largest", largest, max),
            ("best with at most half of the MACs", half, max),
            ("worst", others, min),
        ]
        for name, candidates, choose in choices:
            add(f"{kind}: {name}", choose(candidates, key=rwap) if candidates else None)
        if others:
            middle = sorted(others, key=rwap)[len(others) // 2]
            add(f"{kind}: median of {len(others)}", middle)
    for row in rows:
        if row["kind"] == "random weights":
            add("random weights", row)
    return lines


def rank_correlation(
    rows: list[Row], others: list[Row], data: str, levels: str
) -> tuple[float, int]:
    """Kendall's tau between the rwAPs of trained subnets with two seeds, and the number of subnets.

    Subnets that are equal up to the deepest of the levels count once.
    """
    run = max(LEVEL_SETS[levels]) + 1

    def by_subnet(rows: list[Row]) -> dict[tuple[int, ...], float]:
        return {
            (*row["expand_ratios"][:run], *row["depths"][:run]): value(row, data, levels, "rwAP")
            for row in rows
            if row["kind"] == "trained"
        }

    first, second = by_subnet(rows), by_subnet(others)
    subnets = [subnet for subnet in first if subnet in second]
    tau = kendalltau([first[subnet] for subnet in subnets], [second[s] for s in subnets])
    return float(tau.statistic), len(subnets)


def read(paths: list[Path]) -> list[Row]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def draw(rows: list[Row], data_sets: list[str], path: Path) -> None:
    figure, panels = plt.subplots(
        len(data_sets),
        len(LEVEL_SETS),
        figsize=(4.5 * len(LEVEL_SETS), 3.2 * len(data_sets)),
        layout="constrained",
        squeeze=False,
    )
    styles = {
        "teacher": ("k", "*", 120),
        "trained": ("tab:blue", "o", 22),
        "before training": ("tab:orange", "x", 22),
        "random weights": ("tab:gray", "v", 40),
    }
    for line, data in zip(panels, data_sets, strict=True):
        for axes, levels in zip(line, LEVEL_SETS, strict=True):
            for kind, (color, marker, size) in styles.items():
                chosen = [row for row in rows if row["kind"] == kind]
                axes.scatter(
                    [row["macs"][levels] / 1e6 for row in chosen],
                    [value(row, data, levels, "rwAP") for row in chosen],
                    color=color,
                    marker=marker,
                    s=size,
                    label=kind,
                )
            axes.set(
                title=f"{data}, strides {levels.replace('+', ' and ')}",
                xlabel="million multiply-adds",
                ylabel="rwAP, %",
                ylim=(0, None),
            )
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("judged", type=Path, nargs="+")
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--other-seed", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    rows, others = read(options.judged), read(options.other_seed)
    data_sets = list(rows[0]["detectors"])
    for data in data_sets:
        for levels in LEVEL_SETS:
            print(f"\n{data}, strides {levels}:\n")
            print("\n".join(table(rows, data, levels)))
            if others:
                tau, count = rank_correlation(rows, others, data, levels)
                print(f"\nKendall's tau between the seeds, of {count} subnets: {tau:.2f}")
    print("\naccuracy of nearest neighbors among natural images, %:")
    for row in rows:
        names = (row["kind"], *row["expand_ratios"], *row["depths"])
        print(*names, f"{100 * row['natural_accuracy']:.1f}")
    draw(rows, data_sets, options.figure)


if __name__ == "__main__":
    main()
