"""The report of a run: one page, its pictures, and the front as a table."""

from __future__ import annotations

import csv
import html
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopatch.data import GOOD, Sample, Split
from autopatch.errors import InputError
from autopatch.report.cases import Cases
from autopatch.report.pareto import Candidate, best_on_test, pareto_figure
from autopatch.search import COSTS

PAGE = "report.html"
TABLE = "front.csv"
PARETO = "pareto.png"

_METRICS = {
    "rwAP": "rwAP",
    "AP": "AP",
    "AUROC": "AUROC",
    "AUPRO": "AUPRO",
    "image_AUROC": "image AUROC",
}
_FEW = 50  # anomalous validation images, up to which the page warns of noise
_MISSING = "&ndash;"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 1180px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #ccc; }
img { max-width: 100%; height: auto; display: block; }
figure { margin: 1rem 0 1.6rem; break-inside: avoid; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid #ddd; text-align: right; }
th { background: #f3f3f3; }
th.text, td.text { text-align: left; }
th.group { text-align: center; border-left: 1px solid #ccc; }
td.first { border-left: 1px solid #ccc; }
tr.pick td { background: #fdecee; }
.warning { background: #fff1cc; border-left: 6px solid #d08700; padding: .7rem 1rem; }
.note { color: #555; }
""".strip()


@dataclass(frozen=True)
class Failure:
    """A candidate without a result.

    Attributes:
        number: Its trial.
        label: Its architecture in words.
        reason: Why.
    """

    number: int
    label: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
        dataset: Name or folder of the data set.
        space: What was searched, in words.
        weights: Where the weights come from, in words.
        random_features: Whether they are random.
        split: Roles of the images.
        seed: Seed of the search.
        evaluations: Architectures asked for.
        cost: What the candidates' cost is, a key of `COSTS`.
        optimizer: What proposed the candidates, in words.
        candidates: All evaluated ones, and the PatchCore setting if it is to be compared.
        failures: Candidates without a result.
        threshold: What the threshold is and what it promises, None without a fitted detector.
        fitted: The detector that threshold and cases belong to, in words.
        cases: Pictures of best and worst images.
        notes: What else the reader must know, one line each.
    """

    dataset: str
    space: str
    weights: str
    random_features: bool
    split: Split
    seed: int
    evaluations: int
    cost: str
    optimizer: str
    candidates: Sequence[Candidate]
    failures: Sequence[Failure] = ()
    threshold: str | None = None
    fitted: str | None = None
    cases: Sequence[Cases] = ()
    notes: Sequence[str] = ()


def write_report(folder: Path, report: Report) -> Path:
    """Writes report.html, the pictures it shows, and front.csv.

    The page needs no network and runs no scripts. The folder appears complete or not at all; an
    earlier report in its place is replaced as a whole.

    Args:
        folder: Folder to make.
        report: What to write.

    Returns:
        The page.

    Raises:
        InputError: The folder cannot be written, or holds something that is not a report.
    """
    _require_replaceable(folder)
    unfinished = folder.with_name(f".{folder.name}.partial")
    earlier = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write(unfinished, report)
        if folder.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            folder.replace(earlier)
        unfinished.replace(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        if earlier.exists() and not folder.exists():
            earlier.replace(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)
    return folder / PAGE


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder for the report")
    if any(folder.iterdir()) and not (folder / PAGE).is_file():
        raise InputError(f"{folder}: holds files but no {PAGE}, expected an earlier report or none")


def _write(folder: Path, report: Report) -> None:
    pareto_figure(
        report.candidates,
        folder / PARETO,
        cost=report.cost,
        validation_anomalies=len(report.split.validation),
        test_anomalies=_anomalous(report.split.test),
        warning=report.weights if report.random_features else None,
    )
    sections = [
        *_top(report),
        *_comparison(report),
        *_front_table(report),
        *_cases(report, folder),
        *_settings(report),
        *_failures(report),
    ]
    title = f"autopatch report: {report.dataset}"
    page = "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title>",
            f"<style>\n{_STYLE}\n</style></head><body>",
            *sections,
            "</body></html>",
            "",
        ]
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    _write_csv(folder / TABLE, report)


def _front(report: Report) -> list[Candidate]:
    return sorted(
        (c for c in report.candidates if c.on_front), key=lambda c: (c.cost, c.number or 0)
    )


def _pick(report: Report) -> Candidate | None:
    return next((c for c in report.candidates if c.is_pick), None)


def _patchcore(report: Report) -> Candidate | None:
    return next((c for c in report.candidates if c.is_patchcore), None)


def _has_tests(candidates: Iterable[Candidate | None]) -> bool:
    return any(c is not None and c.test for c in candidates)


def _top(report: Report) -> list[str]:
    parts = [f"<h1>Search on {_text(report.dataset)}</h1>"]
    if report.random_features:
        parts.append(
            '<p class="warning"><strong>The features are random.</strong> The backbone has no '
            "trained weights: the figures on this page show that the program works, not what "
            "the method can do.</p>"
        )
    evaluated = sum(c.number is not None for c in report.candidates) + len(report.failures)
    summary = f"{evaluated} of {report.evaluations} architectures were evaluated"
    if report.failures:
        summary += f", {len(report.failures)} of them without a result"
    on_front = len(_front(report))
    summary += f"; {on_front} {'is' if on_front == 1 else 'are'} on the Pareto front."
    parts.append(f"<p>{summary}</p>")
    pick = _pick(report)
    if pick is None:
        parts.append("<p>There is no pick: no architecture has a result.</p>")
        return parts
    parts.append(
        f"<p><strong>The pick is {_text(pick.name)}</strong>, {_text(pick.label)}: the highest "
        f"rwAP on the validation part, {_percent(pick.validation, 'rwAP')} %.</p>"
    )
    parts.append(f"<p>{_text(_caution(report.split))}</p>")
    return parts


def _caution(split: Split) -> str:
    """On how much evidence the pick stands."""
    count = len(split.validation)
    text = (
        f"The pick was made with {_images(count, 'anomalous')} and "
        f"{_images(len(split.holdout), 'good')}."
    )
    if count <= _FEW:
        text += (
            " Values from so few anomalies are noisy, and the highest of many noisy values is "
            "too high on average: expect less on new images, and another order of the candidates."
        )
    return text


def _comparison(report: Report) -> list[str]:
    pick, patchcore = _pick(report), _patchcore(report)
    rows = [
        ("pick", pick),
        ("PatchCore setting", patchcore),
        (
            "best of the front on the test part (not attainable: chosen with the test labels)",
            best_on_test(report.candidates),
        ),
    ]
    names = [role if c.number is None else f"{role}, {c.name}" for role, c in rows if c is not None]
    shown = [candidate for _, candidate in rows if candidate is not None]
    parts = ["<h2>Pick, PatchCore setting, and what the front holds</h2>"]
    if shown:
        parts += _table(shown, names, "detector", report.cost)
    if _has_tests(shown):
        parts.append(
            '<p class="note">The test part was not used by the search: '
            f"{_text(_part(report.split.test))}.</p>"
        )
        parts += _difference(pick, patchcore)
    else:
        parts.append(
            '<p class="note">Nothing was measured on the test part yet; validation values '
            "alone do not tell how good a detector is.</p>"
        )
    parts.append(
        f'<figure><img src="{PARETO}" alt="rwAP against FLOPs of all candidates"></figure>'
    )
    return parts


def _difference(pick: Candidate | None, patchcore: Candidate | None) -> list[str]:
    tests = [c.test.get("rwAP") if c is not None and c.test else None for c in (pick, patchcore)]
    if tests[0] is None or tests[1] is None:
        return []
    points = 100 * (tests[0] - tests[1])
    relation = "above" if points >= 0 else "below"
    return [
        f"<p>On the test part the pick is {abs(points):.1f} points of rwAP {relation} the "
        "PatchCore setting.</p>"
    ]


def _front_table(report: Report) -> list[str]:
    front = _front(report)
    parts = ["<h2>The front</h2>"]
    if not front:
        return [*parts, "<p>It is empty.</p>"]
    names = [f"{c.number}{' (pick)' if c.is_pick else ''}" for c in front]
    parts += _table(front, names, "trial", report.cost)
    parts.append(
        '<p class="note">Metrics in percent, GFLOP an image: '
        f"{_text(COSTS[report.cost])}, and those of the backbone by 2 for each multiply-add. "
        f'The same as <a href="{TABLE}">{TABLE}</a>.</p>'
    )
    return parts


def _table(
    candidates: Sequence[Candidate], names: Sequence[str], heading: str, cost: str
) -> list[str]:
    parts_of_data = ["validation"] + (["test"] if _has_tests(candidates) else [])
    head = [
        f'<th rowspan="2" class="text">{heading}</th>',
        '<th rowspan="2" class="text">architecture</th>',
        '<th colspan="2" class="group">GFLOP</th>',
    ]
    metric_cells = "".join(f"<th>{title}</th>" for title in _METRICS.values())
    head += [f'<th colspan="{len(_METRICS)}" class="group">{part}</th>' for part in parts_of_data]
    lines = [
        '<div class="wide"><table>',
        f"<thead><tr>{''.join(head)}</tr>",
        f"<tr><th>{cost.removesuffix('_flops')}</th><th>backbone</th>"
        f"{metric_cells * len(parts_of_data)}</tr></thead>",
        "<tbody>",
    ]
    for candidate, name in zip(candidates, names, strict=True):
        backbone = candidate.backbone_flops
        cells = [
            f'<td class="text">{_text(name)}</td>',
            f'<td class="text">{_text(candidate.label)}</td>',
            f'<td class="first">{candidate.cost / 1e9:.2f}</td>',
            f"<td>{_MISSING if backbone is None else f'{backbone / 1e9:.2f}'}</td>",
        ]
        for part in parts_of_data:
            values = candidate.validation if part == "validation" else candidate.test or {}
            for index, metric in enumerate(_METRICS):
                style = ' class="first"' if index == 0 else ""
                cells.append(f"<td{style}>{_percent(values, metric)}</td>")
        style = ' class="pick"' if candidate.is_pick else ""
        lines.append(f"<tr{style}>{''.join(cells)}</tr>")
    return [*lines, "</tbody></table></div>"]


def _cases(report: Report, folder: Path) -> list[str]:
    parts = []
    if report.fitted is not None or report.threshold is not None or report.cases:
        parts.append("<h2>The fitted detector on single images</h2>")
    if report.fitted is not None:
        parts.append(f"<p>Fitted: {_text(report.fitted)}.</p>")
    if report.threshold is not None:
        parts.append(f"<p>{_text(_sentence(report.threshold))}</p>")
    if report.cases:
        parts.append(
            '<p class="note">Colors mean the same on every picture. White line: score above the '
            "threshold. Cyan line: true anomaly.</p>"
        )
    for group_number, group in enumerate(report.cases, start=1):
        parts += [f"<h3>{_text(group.heading)}</h3>", f'<p class="note">{_text(group.note)}</p>']
        for number, (description, picture) in enumerate(group.panels, start=1):
            file = f"case_{group_number}_{number}.png"
            picture.save(folder / file)
            parts.append(
                f'<figure><img src="{file}" alt="{_text(description)}" '
                f'width="{picture.width}" height="{picture.height}"></figure>'
            )
    return parts


def _settings(report: Report) -> list[str]:
    split = report.split
    order = f"{split.protocol} order, seed {split.seed}"
    rows = [
        ("data set", report.dataset),
        ("search space", report.space),
        ("weights", report.weights),
        ("objectives", f"{COSTS[report.cost]} and rwAP on the validation part"),
        ("optimizer", report.optimizer),
        ("evaluations asked for", str(report.evaluations)),
        ("seed", str(report.seed)),
        ("split", f"{order}; of each type shots {split.shots}, reserve {split.reserve}"),
        ("fit", _images(len(split.fit), "good")),
        ("validation", _part((*split.holdout, *split.validation))),
        ("calibration", _images(len(split.calibration), "good")),
        ("test", _part(split.test)),
    ]
    parts = ["<h2>What was searched, and with which images</h2>", '<div class="wide"><table>']
    parts += [
        f'<tr><td class="text">{name}</td><td class="text">{_text(value)}</td></tr>'
        for name, value in rows
    ]
    parts.append("</table></div>")
    notes = [*report.notes, *split.notes]
    if notes:
        items = "".join(f"<li>{_text(_sentence(note))}</li>" for note in notes)
        parts.append(f"<p>To be known:</p><ul>{items}</ul>")
    return parts


def _failures(report: Report) -> list[str]:
    if not report.failures:
        return []
    parts = [
        "<h2>Candidates without a result</h2>",
        '<div class="wide"><table><thead><tr><th class="text">trial</th>'
        '<th class="text">architecture</th><th class="text">reason</th></tr></thead><tbody>',
    ]
    for failure in report.failures:
        values = (str(failure.number), failure.label, failure.reason)
        cells = "".join(f'<td class="text">{_text(value)}</td>' for value in values)
        parts.append(f"<tr>{cells}</tr>")
    return [*parts, "</tbody></table></div>"]


def _write_csv(path: Path, report: Report) -> None:
    """The front and, in the last row, the PatchCore setting where it is not on it."""
    front = _front(report)
    patchcore = _patchcore(report)
    rows = front if patchcore is None or patchcore.on_front else [*front, patchcore]
    parts = ["validation"] + (["test"] if _has_tests(rows) else [])
    columns = [f"{part}_{metric}" for part in parts for metric in _METRICS]
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(
            ["trial", "role", "architecture", report.cost, "backbone_flops", *columns, "features"]
        )
        for candidate in rows:
            roles = [
                name
                for name, holds in (
                    ("front", candidate.on_front),
                    ("pick", candidate.is_pick),
                    ("PatchCore setting", candidate.is_patchcore),
                )
                if holds
            ]
            values = [candidate.validation, candidate.test or {}][: len(parts)]
            table.writerow(
                [
                    candidate.number,
                    " + ".join(roles),
                    candidate.label,
                    candidate.cost,
                    candidate.backbone_flops,
                    *(metrics.get(metric) for metrics in values for metric in _METRICS),
                    report.weights,
                ]
            )


def _anomalous(samples: Sequence[Sample]) -> int:
    return sum(sample.type != GOOD for sample in samples)


def _part(samples: Sequence[Sample]) -> str:
    """How many images of which type."""
    counts = Counter(sample.type for sample in samples)
    good = counts.pop(GOOD, 0)
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    detail = f" ({types})" if types else ""
    return f"{_images(good, 'good')} and {_images(sum(counts.values()), 'anomalous')}{detail}"


def _images(count: int, kind: str) -> str:
    return f"{count} {kind} image{'' if count == 1 else 's'}"


def _percent(metrics: Mapping[str, float], name: str) -> str:
    return f"{100 * metrics[name]:.1f}" if name in metrics else _MISSING


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _text(value: str) -> str:
    return html.escape(value)
