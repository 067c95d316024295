"""Several draws of a search side by side: one shot misleads, so look at the spread.

for seed in 0 1 2 3 4; do
    autopatch search DATA ... --shots 1 --seed $seed --out runs/$seed
    autopatch fit runs/$seed && autopatch evaluate runs/$seed
done
python benchmarks/draws.py runs/* > benchmarks/results/<name>.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from autopatch.search.measurements import Measured, Measurements
from autopatch.search.run import Run


def main() -> None:
    runs = [Run.open(Path(argument)) for argument in sys.argv[1:]]
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.source.supernet, run.split.shots, run.seed)):
        groups.setdefault((run.source.supernet, run.split.shots), []).append(run)
    for (supernet, shots), members in groups.items():
        print(f"\n### {supernet}, {shots} anomalous image{'s' * (shots > 1)} of each type\n")
        print(
            "| seed | pick: rwAP / AP / image AUROC / GFLOP | PatchCore setting: the same |", end=""
        )
        print(" best of the front on test: rwAP / GFLOP |")
        print("|---|---|---|---|")
        rows = [(run.seed, *chosen(run)) for run in members]
        for seed, pick, patchcore, best in rows:
            cheap = f"{percent(best)} / {best.cost / 1e9:.2f}"
            print(f"| {seed} | {figures(pick)} | {figures(patchcore)} | {cheap} |")
        columns = [spread(row[i] for row in rows) for i in (1, 2, 3)]
        print(f"| mean +- deviation of rwAP | {' | '.join(columns)} |")


def chosen(run: Run) -> tuple[Measured, Measured, Measured]:
    """The fitted detector, the PatchCore setting, and the best of the front on the test part."""
    measurements = Measurements.load(run)
    if measurements is None:
        raise SystemExit(f"{run.path}: evaluate it first")
    fitted, patchcore = measurements.rows[:2]
    return fitted, patchcore, measurements.best_of_front


def percent(row: Measured, metric: str = "rwAP") -> str:
    return f"{100 * row.metrics[metric]:.1f}"


def figures(row: Measured) -> str:
    metrics = " / ".join(percent(row, name) for name in ("rwAP", "AP", "image_AUROC"))
    return f"{metrics} / {row.cost / 1e9:.2f}"


def spread(rows: Iterable[Measured]) -> str:
    values = [100 * row.metrics["rwAP"] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} +- {deviation:.1f}"


if __name__ == "__main__":
    main()
