"""What judge.py found: a table for the model card, and rwAP against multiply-adds.

python training/show.py RUN/judged.jsonl --figure docs/images/autopatch_s.png
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

Row = dict[str, Any]


def value(row: Row, data: str, levels: str, metric: str) -> float:
    """Mean over draws, in percent."""
    return 100 * statistics.mean(row["detectors"][data][levels][metric])


def table(rows: list[Row], data: str, levels: str) -> list[str]:
    """Lines of a table in Markdown; rows are chosen by rwAP on this data set and these levels."""

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
            ("best of half the MACs at most", half, max),
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
    options = parser.parse_args()
    rows = [json.loads(line) for path in options.judged for line in path.read_text().splitlines()]
    data_sets = list(rows[0]["detectors"])
    for data in data_sets:
        for levels in LEVEL_SETS:
            print(f"\n{data}, strides {levels}:\n")
            print("\n".join(table(rows, data, levels)))
    print("\naccuracy of nearest neighbors among natural images, %:")
    for row in rows:
        names = (row["kind"], *row["expand_ratios"], *row["depths"])
        print(*names, f"{100 * row['natural_accuracy']:.1f}")
    draw(rows, data_sets, options.figure)


if __name__ == "__main__":
    main()
