"""Tables of a run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autopatch.cli.console import note, table

if TYPE_CHECKING:
    from autopatch.runs import Run, TestResults
    from autopatch.search import Objective, Trial

_KINDS = {"fitted": "fitted detector", "patchcore": "PatchCore"}


def print_front(run: Run) -> None:
    """Prints the front on the validation set, which rule picked on what, and advice."""
    from autopatch.report import METRIC_TITLES, VALIDATION_TITLES, Evidence, by_kind, percent
    from autopatch.runs.advice import advise

    front = run.front
    columns = _columns(run)
    evidence = Evidence.of(run.split, run.synthetic)
    metrics = _metrics(run, front.trials)
    titles = [
        f"{METRIC_TITLES[name]} of shots"
        if evidence.kinds and name in METRIC_TITLES
        else VALIDATION_TITLES[name]
        for name in metrics
    ]
    rows = []
    for trial in front.trials:
        assert trial.evaluation is not None
        found = trial.evaluation
        rows.append(
            [
                trial.architecture.describe(run.supernet),
                f"{trial.number}{' (pick)' if trial.number == front.pick.number else ''}",
                *(f"{o.display(found.values[o.name]):.2f}" for o in columns.values()),
                *(percent(found.metrics, name) for name in metrics),
            ]
        )
    features = "; RANDOM features" if run.supernet.random_features else ""
    table(
        f"Pareto front, validation set ({evidence.brief()}){features}",
        ["architecture", "trial", *columns, *titles],
        rows,
    )
    note(
        f"the rule {run.rule!r} picked trial {front.pick.number}, on {evidence.describe()} "
        f"beside {evidence.good:,} good images; in parentheses: 90 % intervals"
    )
    assert front.pick.evaluation is not None
    kinds = by_kind(front.pick.evaluation.metrics, evidence)
    if kinds:
        table(
            f"Trial {front.pick.number} (pick) on the anomalies of each kind, the worst first",
            ["kind", "anomalies", "rwAP", "image AUROC"],
            kinds,
        )
    advice = advise(run)
    note(advice.trust)
    note(advice.help)


def _metrics(run: Run, trials: Sequence[Trial]) -> list[str]:
    """The quality, and the next metric that tells most; those that were measured."""
    names = dict.fromkeys((run.objectives[-1].name, "robust_rwAP", "rwAP", "AP"))
    measured = set().union(*(trial.evaluation.metrics for trial in trials if trial.evaluation))
    return [name for name in names if name in measured][:2]


def print_results(run: Run, results: TestResults) -> None:
    """Prints the results on the test set, with notes on the rows, and advice."""
    from autopatch.report import METRIC_TITLES
    from autopatch.runs.advice import advise

    note(f"backbone: {results.weights}")
    columns = _columns(run)
    good = sum(not sample.label for sample in run.split.test)
    table(
        f"Test set: {good:,} good images and "
        + (
            "synthetic anomalies drawn on them, as there are no images of real defects"
            if results.synthetic
            else f"{len(run.split.test) - good:,} anomalous images"
        ),
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
            for line in row.verdicts.sentences() if row.verdicts else ():
                note(f"  {line}")
    best = results.best_of_front
    note(f"pick of the search: trial {run.pick.number}")
    note(f"best of the front (chosen with the test labels): trial {best.trial}, {best.label}")
    verdicts = results.rows[0].verdicts
    advice = advise(run, None if verdicts is None else verdicts.threshold)
    for line in (*(verdicts.warnings() if verdicts else ()), advice.trust, advice.help):
        note(line)


def _columns(run: Run) -> dict[str, Objective]:
    """The objectives that are not metrics, by column heading."""
    from autopatch.report import VALIDATION_TITLES
    from autopatch.search.objectives import headings

    titles = headings(run.objectives)
    return {titles[o.name]: o for o in run.objectives if o.name not in VALIDATION_TITLES}
