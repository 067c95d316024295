"""Metrics in tables: headings, values with intervals, and which of them the test set has."""

from __future__ import annotations

from collections.abc import Mapping

from autopatch.search.objectives import OBJECTIVES, Objective
from autopatch.search.validation import ROBUST

METRIC_TITLES = {
    "rwAP": "rwAP",
    "AP": "AP",
    "AUROC": "AUROC",
    "AUPRO": "AUPRO",
    "image_AUROC": "image AUROC",
}
"""Headings of the metrics in tables, by name of the metric."""

VALIDATION_TITLES = {
    "robust_rwAP": "robust rwAP",
    "robust_image_AUROC": "robust image AUROC",
    **METRIC_TITLES,
}
"""Headings of the metrics on the validation set: those of synthetic anomalies and shots together,
then those of the shots alone."""

MISSING = "–"
"""What a table shows for a metric that was not measured."""


def bounds(metrics: Mapping[str, float], name: str) -> tuple[float, float] | None:
    """The 90 % interval of a metric; None if it has none."""
    ends = (f"{name}.low", f"{name}.high")
    return (metrics[ends[0]], metrics[ends[1]]) if all(end in metrics for end in ends) else None


def percent(metrics: Mapping[str, float], name: str, *, interval: bool = True) -> str:
    """A metric in percent, with its interval if it has one, such as "61.2 (55.0–66.8)".

    Args:
        metrics: Metrics by name.
        name: Name of the metric; if it is missing, the result is `MISSING`.
        interval: Whether to show the interval.
    """
    if name not in metrics:
        return MISSING
    ends = bounds(metrics, name) if interval else None
    value = f"{100 * metrics[name]:.1f}"
    return value if ends is None else f"{value} ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})"


def displayed(objective: Objective, values: Mapping[str, float]) -> str:
    """The value of an objective, without its unit; `MISSING` if it was not measured."""
    if objective.name not in values:
        return MISSING
    digits = 1 if objective.unit == "%" else 2
    return f"{objective.display(values[objective.name]):.{digits}f}"


def in_words(
    objective: Objective, values: Mapping[str, float], metrics: Mapping[str, float] | None = None
) -> str:
    """The value of an objective with its unit, and with its interval if the metrics have one, such
    as "61.2 % (90 % interval 55.0 to 66.8)"."""
    text = with_unit(displayed(objective, values), objective)
    interval = bounds(metrics or {}, objective.name)
    if interval is None:
        return text
    low, high = (displayed(objective, {objective.name: end}) for end in interval)
    return f"{text} (90 % interval {low} to {high})"


def with_unit(number: str, objective: Objective) -> str:
    """A displayed value with its unit, if it has one."""
    return f"{number} {objective.unit}".rstrip()


def as_tested(objective: Objective) -> Objective:
    """What the test set measures for an objective: the objective itself, or the metric without
    synthetic anomalies, such as rwAP for robust_rwAP."""
    name = objective.name.removeprefix(f"{ROBUST}_")
    return objective if name == objective.name else OBJECTIVES[name]
