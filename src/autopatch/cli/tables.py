"""Tables of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopatch.cli.console import note, table

if TYPE_CHECKING:
    from autopatch.runs import Run, TestResults

_METRICS = {
    "rwAP": "rwAP",
    "AP": "AP",
    "AUROC": "AUROC",
    "AUPRO": "AUPRO",
    "image_AUROC": "image AUROC",
}
_KINDS = {"fitted": "fitted detector", "patchcore": "PatchCore setting"}


def print_front(run: Run) -> None:
    """The table of the front on the validation part."""
    front = run.front
    costs = [objective for objective in run.objectives if objective.name not in _METRICS]
    metrics = {name: _METRICS[name] for name in ("rwAP", "AP")}
    rows = []
    for trial in front.trials:
        assert trial.evaluation is not None
        found = trial.evaluation
        rows.append(
            [
                trial.architecture.describe(run.supernet),
                f"{trial.number}{' (pick)' if trial.number == front.pick.number else ''}",
                *(f"{cost.display(found.values[cost.name]):.2f}" for cost in costs),
                *(f"{100 * found.metrics[name]:.1f}" for name in metrics),
            ]
        )
    features = "; RANDOM features" if run.supernet.random_features else ""
    table(
        f"Pareto front, validation part ({len(run.split.validation)} anomalous images){features}",
        ["architecture", "trial", *_headings(run), *metrics.values()],
        rows,
    )


def print_results(run: Run, results: TestResults) -> None:
    """The table of the test part, and what its rows are."""
    note(f"features: {results.features}")
    anomalous = sum(sample.label for sample in run.split.test)
    costs = [objective for objective in run.objectives if objective.name not in _METRICS]
    table(
        f"Test part: {len(run.split.test) - anomalous} good and {anomalous} anomalous images",
        ["detector", *_METRICS.values(), *_headings(run), "ms"],
        [
            [
                _KINDS.get(row.kind, f"trial {row.trial}"),
                *(f"{100 * row.metrics[m]:.1f}" if m in row.metrics else "" for m in _METRICS),
                *(f"{cost.display(row.values[cost.name]):.2f}" for cost in costs),
                "" if row.milliseconds is None else f"{row.milliseconds:.1f}",
            ]
            for row in results.rows
        ],
    )
    for row in results.rows:
        if row.kind in _KINDS:
            note(f"{_KINDS[row.kind]}: {row.label}")
    best = results.best_of_front
    note(f"pick of the search: trial {run.pick.number}")
    note(
        f"best of the front on the test part: trial {best.trial}, {best.label}; not attainable, "
        "chosen with the labels of the test part"
    )


def _headings(run: Run) -> list[str]:
    """Headings of the columns of costs: "GFLOP", or "published GFLOP"."""
    headings = []
    for objective in run.objectives:
        if objective.name in _METRICS:
            continue
        kind = objective.name.partition("_")[0]
        heading = objective.unit or objective.name
        headings.append(heading if kind == "total" else f"{kind} {heading}")
    return headings
