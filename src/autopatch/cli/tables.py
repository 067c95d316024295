"""Tables of a run on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopatch.cli.console import note, table

if TYPE_CHECKING:
    from autopatch.runs import Run, TestResults
    from autopatch.search import Objective

_KINDS = {"fitted": "fitted detector", "patchcore": "PatchCore"}


def print_front(run: Run) -> None:
    """Prints the front on the validation set."""
    from autopatch.report import METRIC_TITLES

    front = run.front
    columns = _columns(run)
    metrics = {name: METRIC_TITLES[name] for name in ("rwAP", "AP")}
    rows = []
    for trial in front.trials:
        assert trial.evaluation is not None
        found = trial.evaluation
        rows.append(
            [
                trial.architecture.describe(run.supernet),
                f"{trial.number}{' (pick)' if trial.number == front.pick.number else ''}",
                *(f"{o.display(found.values[o.name]):.2f}" for o in columns.values()),
                *(f"{100 * found.metrics[name]:.1f}" for name in metrics),
            ]
        )
    features = "; RANDOM features" if run.supernet.random_features else ""
    table(
        f"Pareto front, validation set ({len(run.split.validation)} anomalous images){features}",
        ["architecture", "trial", *columns, *metrics.values()],
        rows,
    )


def print_results(run: Run, results: TestResults) -> None:
    """Prints the results on the test set, with notes on the rows."""
    from autopatch.report import METRIC_TITLES

    note(f"backbone: {results.weights}")
    anomalous = sum(sample.label for sample in run.split.test)
    columns = _columns(run)
    table(
        f"Test set: {len(run.split.test) - anomalous} good and {anomalous} anomalous images",
        ["detector", *METRIC_TITLES.values(), *columns, "ms"],
        [
            [
                _KINDS.get(row.kind, f"trial {row.trial}"),
                *(f"{100 * row.metrics[m]:.1f}" if m in row.metrics else "" for m in METRIC_TITLES),
                *(
                    f"{o.display(row.values[o.name]):.2f}" if o.name in row.values else ""
                    for o in columns.values()
                ),
                "" if row.milliseconds is None else f"{row.milliseconds:.1f}",
            ]
            for row in results.rows
        ],
    )
    if results.types:
        table(
            "Known defects: rwAP of the fitted detector on the test set, by anomaly type",
            ["type", "known images", "all known", "without this type", "none known"],
            [
                [
                    row.type,
                    str(row.known),
                    *(f"{100 * value:.1f}" for value in (row.seen, row.unseen, row.without)),
                ]
                for row in results.types
            ],
        )
    for row in results.rows:
        if row.kind in _KINDS:
            note(f"{_KINDS[row.kind]}: {row.label}")
    best = results.best_of_front
    note(f"pick of the search: trial {run.pick.number}")
    note(f"best of the front (chosen with the test labels): trial {best.trial}, {best.label}")


def _columns(run: Run) -> dict[str, Objective]:
    """The objectives that are not metrics, by column heading."""
    from autopatch.report import METRIC_TITLES
    from autopatch.search.objectives import headings

    titles = headings(run.objectives)
    return {titles[o.name]: o for o in run.objectives if o.name not in METRIC_TITLES}
