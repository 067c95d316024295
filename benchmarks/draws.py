"""Compares several draws of a search: the result of one shot can mislead, so look at the spread.

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

from autopatch.runs import DetectorResult, Run, TestResults


def main() -> None:
    runs = [Run.open(Path(argument)) for argument in sys.argv[1:]]
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.source.space, run.split.shots, run.seed)):
        groups.setdefault((run.source.space, run.split.shots), []).append(run)
    for (space, shots), members in groups.items():
        print(f"\n### {space}, {shots} anomalous image{'s' * (shots > 1)} of each type\n")
        print(
            "| seed | pick: rwAP / AP / image AUROC / GFLOP | PatchCore baseline: the same |",
            end="",
        )
        print(" best of the front on test: rwAP / GFLOP |")
        print("|---|---|---|---|")
        rows = [chosen(run) for run in members]
        for run, (pick, patchcore, best) in zip(members, rows, strict=True):
            cells = [figures(run, pick), figures(run, patchcore)]
            print(f"| {run.seed} | {' | '.join(cells)} | {percent(best)} / {cost(run, best)} |")
        columns = [spread(column) for column in zip(*rows, strict=True)]
        print(f"| mean +- deviation of rwAP | {' | '.join(columns)} |")


def chosen(run: Run) -> tuple[DetectorResult, DetectorResult, DetectorResult]:
    """The fitted detector, the PatchCore baseline, and the best of the front on the test set."""
    results = TestResults.load(run.path)
    if results is None:
        raise SystemExit(f"{run.path}: evaluate it first")
    fitted, patchcore = results.rows[:2]
    return fitted, patchcore, results.best_of_front


def percent(row: DetectorResult, metric: str = "rwAP") -> str:
    return f"{100 * row.metrics[metric]:.1f}"


def cost(run: Run, row: DetectorResult) -> str:
    """The cost of a detector (first objective of the search), in GFLOP."""
    objective = run.objectives[0]
    return f"{objective.display(row.values[objective.name]):.2f}"


def figures(run: Run, row: DetectorResult) -> str:
    metrics = " / ".join(percent(row, name) for name in ("rwAP", "AP", "image_AUROC"))
    return f"{metrics} / {cost(run, row)}"


def spread(rows: Iterable[DetectorResult]) -> str:
    values = [100 * row.metrics["rwAP"] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} +- {deviation:.1f}"


if __name__ == "__main__":
    main()
