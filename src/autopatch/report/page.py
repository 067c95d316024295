"""Writes the report of a run: one page, its pictures, and the front as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from autopatch.data import DEFAULT_READING, Anomaly, Reading, Sample, Split
from autopatch.detector import TypeResult
from autopatch.errors import InputError
from autopatch.files import StrPath, new_folder, require_writable_folder
from autopatch.report.cases import Cases
from autopatch.report.contact_sheet import write_contact_sheet
from autopatch.report.evidence import Evidence, by_kind, drawn_anomalies, part_of
from autopatch.report.metrics import (
    METRIC_TITLES,
    MISSING,
    VALIDATION_TITLES,
    as_tested,
    bounds,
    displayed,
    in_words,
    percent,
    with_unit,
)
from autopatch.report.pareto import Candidate, best_on_test, pareto_figure, short_label
from autopatch.search.objectives import Objective, headings
from autopatch.search.validation import COMBINED
from autopatch.words import counted

PAGE = "report.html"
TABLE = "front.csv"
PARETO = "pareto.png"
SYNTHETIC = "synthetic.png"
_TEMPLATE = "report.html.jinja"

_FEW = 50  # with at most this many anomalous validation images, the page warns of noise
_FEW_GOOD = 20  # with fewer good ones too, since synthetic anomalies are drawn on these
_FLOPS_UNIT = "GFLOP"  # objectives in this unit share a column group with the backbone's FLOPs


@dataclass(frozen=True)
class Failure:
    """A candidate without a result.

    Attributes:
        number: Number of its trial.
        label: Its architecture in words.
        reason: Why it failed.
    """

    number: int
    label: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The contents of a report page.

    Attributes:
        dataset: Name or folder of the data set.
        space: The search space, in words.
        weights: Where the weights come from, in words.
        random_features: Whether the weights are random.
        split: Roles of the images.
        seed: Seed of the optimizer.
        evaluations: Number of architectures to evaluate.
        objectives: Objectives of the search; the first is the cost, the last the quality.
        optimizer: The optimizer, in words.
        candidates: All evaluated candidates, and the PatchCore baseline for comparison.
        constraints: The constraints, in words.
        latency: How the latency was measured, with its error, in words; None if it was not.
        reuse: Shares of the work that were in the cache, by name of the work.
        failures: Candidates without a result.
        threshold: The threshold and its expected false-alarm rate, in words; None without a fitted
            detector.
        fitted: The fitted detector, in words.
        known: The images that the fitted detector knows, in words.
        types: What its known defects are worth on the test set, by anomaly type.
        cases: Pictures of its best and worst images.
        rule: Name of the rule that picked.
        advice: What to think of the pick, one paragraph each.
        synthetic: The synthetic anomalies of the search.
        reading: How their masks are read.
        test: The images of the test set; None for those of the split.
        is_test_drawn: Whether the anomalies of the test set are synthetic.
        verdicts: How often the measured detectors are wrong on the test set, one paragraph each.
        warnings: What is wrong with the threshold, one sentence each.
        notes: Further notes for the reader, one line each.
    """

    dataset: str
    space: str
    weights: str
    random_features: bool
    split: Split
    seed: int
    evaluations: int
    objectives: Sequence[Objective]
    optimizer: str
    candidates: Sequence[Candidate]
    constraints: Sequence[str] = ()
    latency: str | None = None
    reuse: Mapping[str, float] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    threshold: str | None = None
    fitted: str | None = None
    known: str | None = None
    types: Sequence[TypeResult] = ()
    cases: Sequence[Cases] = ()
    rule: str | None = None
    advice: Sequence[str] = ()
    synthetic: Sequence[Anomaly] = ()
    reading: Reading = DEFAULT_READING
    test: Sequence[Sample] | None = None
    is_test_drawn: bool = False
    verdicts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def evidence(self) -> Evidence:
        """The images that decided the pick."""
        return Evidence.of(self.split, self.synthetic)

    @property
    def tested(self) -> Sequence[Sample]:
        """The images of the test set."""
        return self.split.test if self.test is None else self.test


def write_report(folder: StrPath, report: Report) -> Path:
    """Writes report.html, its pictures, and front.csv.

    The page works offline and without scripts. The folder appears complete or not at all, and
    replaces an earlier report.

    Args:
        folder: Folder to create.
        report: Contents of the page.

    Returns:
        The page.

    Raises:
        InputError: The folder cannot be written, or holds something that is not a report.
    """
    require_report_folder(folder)
    with new_folder(folder, replace=True) as unfinished:
        _write(unfinished, report)
    return Path(folder, PAGE)


def require_report_folder(folder: StrPath) -> None:
    """Raises InputError if the folder holds something other than a report, or cannot be written."""
    path = Path(folder)
    if path.is_dir() and any(path.iterdir()) and not (path / PAGE).is_file():
        raise InputError(f"{folder}: holds files but no {PAGE}, expected an earlier report or none")
    require_writable_folder(path, replace=True)


def _write(folder: Path, report: Report) -> None:
    pareto_figure(
        report.candidates,
        folder / PARETO,
        objectives=report.objectives,
        validation=report.evidence.brief(),
        test=_anomalies(report),
        warning=report.weights if report.random_features else None,
    )
    if report.synthetic:
        write_contact_sheet(report.synthetic, folder / SYNTHETIC, reading=report.reading)
    for place, group in enumerate(report.cases, start=1):
        for number, (_, picture) in enumerate(group.panels, start=1):
            picture.save(folder / _case_file(place, number))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autopatch.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template(_TEMPLATE).render(_contents(report))
    # File names may contain bytes that are not UTF-8.
    (folder / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
    _write_csv(folder / TABLE, report)


def _contents(report: Report) -> dict[str, object]:
    """The variables of the template."""
    cost, quality = report.objectives[0], report.objectives[-1]
    pick, patchcore, front = _pick(report), _patchcore(report), _front(report)
    compared = [
        ("pick", pick),
        ("PatchCore baseline", patchcore),
        (
            "best of the front (chosen with the test labels)",
            best_on_test(report.candidates, report.objectives),
        ),
    ]
    shown = [candidate for _, candidate in compared if candidate is not None]
    names = [
        role if candidate.number is None else f"{role}, {candidate.name}"
        for role, candidate in compared
        if candidate is not None
    ]
    return {
        "dataset": report.dataset,
        "random_features": report.random_features,
        "evaluated": sum(c.number is not None for c in report.candidates) + len(report.failures),
        "evaluations": report.evaluations,
        "failures": report.failures,
        "on_front": len(front),
        "quality": quality.short_name,
        "cost": short_label(cost),
        "rule": report.rule,
        "advice": report.advice,
        "warnings": report.warnings,
        "verdicts": report.verdicts,
        "kinds": [] if pick is None else by_kind(pick.validation, report.evidence),
        "sheet": SYNTHETIC if report.synthetic else None,
        "has_intervals": any(bounds(c.validation, n) for c in shown for n in VALIDATION_TITLES),
        "pick": None if pick is None else _pick_and_evidence(pick, report),
        "comparison": _table("detector", shown, names, report),
        "is_tested": _has_tests(shown),
        "test_set": part_of(report.tested, drawn=report.is_test_drawn),
        "is_test_drawn": report.is_test_drawn,
        "fit": _images(len(report.split.fit), "good"),
        "difference": _difference(pick, patchcore, as_tested(quality)),
        "picture": PARETO,
        "front": _table(
            "trial", front, [f"{c.number}{' (pick)' if c.is_pick else ''}" for c in front], report
        ),
        "units": _units(_by_unit(report)),
        "csv": TABLE,
        "fitted": report.fitted,
        "known": None if report.known is None else f"The detector {report.known}.",
        "types": [
            (row.type, row.known, *(f"{100 * v:.1f}" for v in (row.seen, row.unseen, row.without)))
            for row in report.types
        ],
        "threshold": None if report.threshold is None else _sentence(report.threshold),
        "cases": [
            {
                "heading": group.heading,
                "note": group.note,
                "pictures": [
                    {
                        "file": _case_file(place, number),
                        "text": description,
                        "width": picture.width,
                        "height": picture.height,
                    }
                    for number, (description, picture) in enumerate(group.panels, start=1)
                ],
            }
            for place, group in enumerate(report.cases, start=1)
        ],
        "settings": _settings(report),
        "notes": [_sentence(note) for note in (*report.notes, *report.split.notes)],
    }


def _case_file(group: int, number: int) -> str:
    return f"case_{group}_{number}.png"


def _front(report: Report) -> list[Candidate]:
    cost = report.objectives[0]
    return sorted(
        (c for c in report.candidates if c.on_front),
        key=lambda c: (cost.loss(c.values[cost.name]), c.number or 0),
    )


def _pick(report: Report) -> Candidate | None:
    return next((c for c in report.candidates if c.is_pick), None)


def _patchcore(report: Report) -> Candidate | None:
    return next((c for c in report.candidates if c.is_patchcore), None)


def _has_tests(candidates: Iterable[Candidate]) -> bool:
    return any(c.test for c in candidates)


def _pick_and_evidence(pick: Candidate, report: Report) -> dict[str, object]:
    """The pick, and the validation images that decided it."""
    evidence = report.evidence
    return {
        "name": pick.name,
        "architecture": pick.label,
        "quality": in_words(report.objectives[-1], pick.values, pick.validation),
        "anomalous": evidence.describe(),
        "good": _images(evidence.good, "good"),
        "is_noisy": evidence.anomalies <= _FEW or evidence.good < _FEW_GOOD,
        "has_synthetic": bool(evidence.kinds),
        "has_shots": bool(evidence.shots),
    }


def _difference(
    pick: Candidate | None, patchcore: Candidate | None, quality: Objective
) -> str | None:
    """The pick compared with the PatchCore baseline on the test set; None if not measured."""
    tests = [
        c.test.get(quality.name) if c is not None and c.test else None for c in (pick, patchcore)
    ]
    if tests[0] is None or tests[1] is None:
        return None
    difference = quality.display(tests[0]) - quality.display(tests[1])
    number = f"{abs(difference):.1f}"
    amount = f"{number} points" if quality.unit == "%" else with_unit(number, quality)
    return f"{amount} of {quality.short_name} {'above' if difference >= 0 else 'below'}"


@dataclass(frozen=True)
class _Group:
    title: str
    columns: Sequence[str]


@dataclass(frozen=True)
class _Row:
    name: str
    architecture: str
    groups: Sequence[Sequence[str]]
    is_pick: bool


@dataclass(frozen=True)
class _Table:
    heading: str
    groups: Sequence[_Group]
    rows: Sequence[_Row]


def _table(
    heading: str, candidates: Sequence[Candidate], names: Sequence[str], report: Report
) -> _Table:
    is_tested = _has_tests(candidates)
    quality, own_quality = as_tested(report.objectives[-1]), _own_quality(report)
    validation = _validation_groups(report.candidates)
    units = _by_unit(report)
    columns = headings(report.objectives, units=False)
    groups = [
        _Group(
            unit,
            [columns[objective.name] for objective in objectives]
            + ["backbone"] * (unit == _FLOPS_UNIT),
        )
        for unit, objectives in units.items()
    ]
    for title, metrics in validation.items():
        groups.append(_Group(title, [VALIDATION_TITLES[metric] for metric in metrics]))
    if is_tested:
        groups.append(_Group("test", [*METRIC_TITLES.values(), *own_quality.values()]))
    rows = []
    for candidate, name in zip(candidates, names, strict=True):
        cells = []
        for unit, objectives in units.items():
            cells.append([displayed(objective, candidate.values) for objective in objectives])
            if unit == _FLOPS_UNIT:
                flops = candidate.backbone_flops
                cells[-1].append(MISSING if flops is None else f"{flops / 1e9:.2f}")
        for metrics in validation.values():
            cells.append([percent(candidate.validation, metric) for metric in metrics])
        if is_tested:
            test = candidate.test or {}
            cells.append([percent(test, metric, interval=False) for metric in METRIC_TITLES])
            cells[-1] += [displayed(quality, test)] * len(own_quality)
        rows.append(_Row(name, candidate.label, cells, candidate.is_pick))
    return _Table(heading, groups, rows)


def _validation_groups(candidates: Sequence[Candidate]) -> dict[str, list[str]]:
    """The metrics that some candidate has on the validation set, by title of their group: those
    that synthetic anomalies take part in, and those of the shots alone."""
    measured = [name for name in VALIDATION_TITLES if any(name in c.validation for c in candidates)]
    together = [name for name in measured if name not in METRIC_TITLES]
    alone = [name for name in measured if name in METRIC_TITLES]
    groups = {"validation": together or alone}
    if together:
        groups["validation, shots alone"] = alone
    return {title: metrics for title, metrics in groups.items() if metrics}


def _own_columns(report: Report) -> list[Objective]:
    """The objectives that are not metrics; metrics have their own columns."""
    return [o for o in report.objectives if o.name not in VALIDATION_TITLES]


def _own_quality(report: Report) -> dict[str, str]:
    """The heading of the quality by its name; empty if the quality is a metric."""
    quality = report.objectives[-1]
    titles = {} if quality.name in VALIDATION_TITLES else headings(report.objectives)
    return {name: title for name, title in titles.items() if name == quality.name}


def _by_unit(report: Report) -> dict[str, list[Objective]]:
    """The objectives of `_own_columns` by unit; the unit of FLOPs is always there, for the
    backbone."""
    units: dict[str, list[Objective]] = {}
    for objective in _own_columns(report):
        units.setdefault(objective.unit, []).append(objective)
    units.setdefault(_FLOPS_UNIT, [])
    return units


def _units(units: Mapping[str, Sequence[Objective]]) -> str:
    """The units of the tables, in words."""
    others = [
        f"{objective.label} in {unit}"
        for unit, objectives in units.items()
        if unit not in ("", _FLOPS_UNIT)
        for objective in objectives
    ]
    flops = [objective.label for objective in units[_FLOPS_UNIT]]
    backbone = f"{'and ' if flops else ''}backbone FLOPs at 2 per multiply-add."
    return ", ".join(
        ["Metrics in percent", *others, f"{_FLOPS_UNIT} per image: {', '.join([*flops, backbone])}"]
    )


def _settings(report: Report) -> list[tuple[str, str]]:
    split = report.split
    order = f"{split.protocol} order, seed {split.seed}"
    others = ", ".join(objective.label for objective in report.objectives[:-1])
    quality = f"{report.objectives[-1].short_name} on the validation set"
    return [
        ("data set", report.dataset),
        ("search space", report.space),
        ("weights", report.weights),
        ("objectives", f"{others} and {quality}" if others else quality),
        *([("constraints", ", ".join(report.constraints))] if report.constraints else []),
        *([("latency", report.latency)] if report.latency else []),
        *([("rule of the pick", report.rule)] if report.rule else []),
        ("optimizer", report.optimizer),
        *([("from the cache", _shares(report.reuse))] if report.reuse else []),
        ("evaluations requested", str(report.evaluations)),
        ("seed", str(report.seed)),
        (
            "split",
            f"{order}; {counted(split.shots, 'shot')} and {split.reserve} reserve images per type",
        ),
        ("fit", _images(len(split.fit), "good")),
        ("validation", f"{_images(len(split.holdout), 'good')} and {report.evidence.describe()}"),
        *([("calibration", _images(len(split.calibration), "good"))] if split.calibration else []),
        ("test", part_of(report.tested, drawn=report.is_test_drawn)),
    ]


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(
        f"{100 * share:.0f} % of the {name.replace('_', ' ')}" for name, share in shares.items()
    )


def _validation_columns() -> list[str]:
    """The metrics of the validation set, each followed by the ends of its interval if it can have
    one."""
    with_interval = [name for name in VALIDATION_TITLES if name.endswith(COMBINED)]
    return [
        column
        for name in VALIDATION_TITLES
        for column in (name, *([f"{name}.low", f"{name}.high"] if name in with_interval else []))
    ]


def _write_csv(path: Path, report: Report) -> None:
    """Writes the front; if the PatchCore baseline is not on it, that is the last row."""
    front = _front(report)
    patchcore = _patchcore(report)
    rows = front if patchcore is None or patchcore.on_front else [*front, patchcore]
    objectives = [objective.name for objective in _own_columns(report)]
    measured = [("validation", name) for name in _validation_columns()]
    if _has_tests(rows):
        measured += [("test", name) for name in (*METRIC_TITLES, *_own_quality(report))]
    columns = [f"{part}_{name.replace('.', '_')}" for part, name in measured]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        table = csv.writer(stream)
        table.writerow(
            ["trial", "role", "architecture", *objectives, "backbone_flops", *columns, "weights"]
        )
        for candidate in rows:
            roles = [
                name
                for name, holds in (
                    ("front", candidate.on_front),
                    ("pick", candidate.is_pick),
                    ("PatchCore baseline", candidate.is_patchcore),
                )
                if holds
            ]
            found = {"validation": candidate.validation, "test": candidate.test or {}}
            table.writerow(
                [
                    candidate.number,
                    " + ".join(roles),
                    candidate.label,
                    *(_plain(candidate.values.get(name)) for name in objectives),
                    candidate.backbone_flops,
                    *(found[part].get(name) for part, name in measured),
                    report.weights,
                ]
            )


def _anomalies(report: Report) -> str:
    """The number of anomalies in the test set, in words."""
    count = sum(sample.label for sample in report.tested)
    return drawn_anomalies(count) if report.is_test_drawn else _images(count, "anomalous")


def _images(count: int, kind: str) -> str:
    return counted(count, f"{kind} image")


def _plain(value: float | None) -> float | None:
    """Converts whole numbers, such as FLOPs, to integers for the CSV file."""
    return value if value is None or not float(value).is_integer() else int(value)


def _sentence(text: str) -> str:
    """The text with a capital letter, unless it starts with a path, and a period."""
    start = text if "/" in text.partition(" ")[0] else f"{text[:1].upper()}{text[1:]}"
    return start if start.endswith(".") else f"{start}."
