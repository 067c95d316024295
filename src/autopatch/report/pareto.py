"""The picture of a search: what it evaluated, its front, and what became of it on the test part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

_FRONT = "#1f5fa8"
_PICK = "#c8102e"
_PATCHCORE = "#b86a00"
_ORACLE = "#2e7d32"
_REACHES = (10, 14, 19, 25, 34, 45, 60, 80, 105, 135, 170, 210)  # of a label, at 100 dpi
_OTHER: dict[str, Any] = {"marker": "o", "ms": 5, "mfc": "#d0d0d0", "mec": "#8c8c8c", "mew": 0.7}


@dataclass(frozen=True)
class Candidate:
    """One detector of a report.

    Attributes:
        number: Its trial, None for one that was not evaluated by the search.
        label: Its architecture in words.
        cost: FLOPs an image, those the search was to save.
        backbone_flops: Those of the backbone alone, None where unknown.
        validation: Metrics on the validation part by name, each in [0, 1]; "rwAP" where the search
            evaluated it, empty where it was not.
        on_front: Whether no other trial beats it.
        is_pick: Whether it is the search's choice.
        is_patchcore: Whether it is the PatchCore setting of the backbone.
        test: Metrics on the test part, None where it was not measured.
    """

    number: int | None
    label: str
    cost: int
    backbone_flops: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    on_front: bool = False
    is_pick: bool = False
    is_patchcore: bool = False
    test: Mapping[str, float] | None = None

    @property
    def name(self) -> str:
        """The trial's number, or what it is."""
        return "PatchCore setting" if self.number is None else f"trial {self.number}"


def best_on_test(candidates: Sequence[Candidate]) -> Candidate | None:
    """The front's member of highest test rwAP, which no search can know; None without tests.

    On ties fewer FLOPs, then the first.
    """
    measured = [c for c in candidates if c.on_front and c.test is not None and "rwAP" in c.test]
    return min(measured, key=lambda c: (-_test_rwap(c), c.cost), default=None)


def pareto_figure(
    candidates: Sequence[Candidate],
    path: Path,
    *,
    cost: str = "total_flops",
    validation_anomalies: int | None = None,
    test_anomalies: int | None = None,
    warning: str | None = None,
) -> None:
    """Draws rwAP against the cost, on the validation part and, where measured, on the test part.

    Args:
        candidates: All evaluated candidates, and the PatchCore setting if it is to be compared.
        path: PNG file to write; it appears whole or not at all.
        cost: What the candidates' cost is, a key of `COSTS`.
        validation_anomalies: Number of anomalous validation images, for the title.
        test_anomalies: Number of anomalous test images, for the title.
        warning: Line above everything, None for none.

    Raises:
        ValueError: A candidate has no FLOPs, which have no place on a logarithmic axis.
    """
    if any(candidate.cost <= 0 for candidate in candidates):
        raise ValueError("a candidate has a cost below 1")
    tested = [c for c in candidates if c.test is not None and "rwAP" in c.test]
    figure = Figure(figsize=(12.5 if tested else 8, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if tested else 1, sharex=True, sharey=True, squeeze=False)[0]
    for axes in panels:
        _style(axes, cost)
    # The bounds are final before labels are placed, and the same for both panels.
    _set_bounds(panels[0], candidates)
    drawn = [_draw_validation(panels[0], candidates)]
    panels[0].set_ylabel("rwAP [%]")
    panels[0].set_title(_title("Validation part, what the search saw", validation_anomalies))
    if tested:
        drawn.append(_draw_test(panels[1], tested))
        panels[1].set_title(_title("Test part, unknown to the search", test_anomalies))
    if warning is not None:
        figure.suptitle(warning, color=_PICK, fontweight="bold")
    _draw_legend(figure)
    figure.draw_without_rendering()  # settles the layout
    figure.set_layout_engine("none")
    for axes, (points, line, labels) in zip(panels, drawn, strict=True):
        _place_labels(axes, points, line, labels)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(unfinished, format="png", metadata={"Software": None})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


_Point = tuple[float, float]


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    color: str
    bold: bool = False


def _style(axes: Any, cost: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(f"{cost.removesuffix('_flops')} FLOPs [GFLOP an image]")
    axes.grid(which="major", color="#e4e4e4", linewidth=0.8)
    axes.grid(which="minor", axis="x", color="#f2f2f2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelleft=True)


def _set_bounds(axes: Any, candidates: Sequence[Candidate]) -> None:
    flops = [c.cost / 1e9 for c in candidates] or [0.1, 10]
    values = [100 * c.validation["rwAP"] for c in candidates if "rwAP" in c.validation]
    values += [100 * _test_rwap(c) for c in candidates if c.test is not None and "rwAP" in c.test]
    low, high = min(flops), max(flops)
    margin = max((high / low) ** 0.1, 1.3)
    axes.set_xlim(low / margin, high * margin)
    top = max(values, default=100.0)
    axes.set_ylim(-0.05 * max(top, 5), 1.18 * max(top, 5))
    spread = high / low * margin**2
    # A narrow range holds few powers of ten; more ticks then carry numbers.
    subs = (1.0,) if spread > 300 else (1.0, 2.0, 5.0) if spread > 8 else tuple(range(1, 10))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10))))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_validation(
    axes: Any, candidates: Sequence[Candidate]
) -> tuple[list[_Point], list[_Point], list[_Label]]:
    """Returns all points, the corners of the front's line, and the labels to place."""
    seen = [c for c in candidates if "rwAP" in c.validation]
    points = [(c.cost / 1e9, 100 * c.validation["rwAP"]) for c in seen]
    others = [point for c, point in zip(seen, points, strict=True) if not c.on_front]
    front = sorted(point for c, point in zip(seen, points, strict=True) if c.on_front)
    if others:
        axes.plot(*zip(*others, strict=True), **_OTHER, linestyle="none")
    line: list[_Point] = []
    if front:
        # To the right edge: more FLOPs than the last member's buy nothing.
        for x, y in [*front, (axes.get_xlim()[1], front[-1][1])]:
            line += [(x, line[-1][1]), (x, y)] if line else [(x, y)]
        axes.plot(*zip(*line, strict=True), color=_FRONT, linewidth=1.6)
        axes.plot(*zip(*front, strict=True), "o", ms=7, color=_FRONT)
    labels = []
    for candidate, point in zip(seen, points, strict=True):
        labels += _mark(axes, candidate, point)
    return points, line, labels


def _draw_test(
    axes: Any, tested: Sequence[Candidate]
) -> tuple[list[_Point], list[_Point], list[_Label]]:
    points = [(c.cost / 1e9, 100 * _test_rwap(c)) for c in tested]
    oracle = best_on_test(tested)
    front = sorted(point for c, point in zip(tested, points, strict=True) if c.on_front)
    if front:
        axes.plot(*zip(*front, strict=True), ":o", ms=7, color=_FRONT, linewidth=1)
    labels = []
    for candidate, point in zip(tested, points, strict=True):
        if candidate is oracle:
            axes.plot(*point, "o", ms=17, mfc="none", mec=_ORACLE, mew=2)
        labels += _mark(axes, candidate, point, oracle=candidate is oracle)
    return points, front, labels


def _draw_legend(figure: Figure) -> None:
    """Explains what is on every picture; the rest is labelled in place."""
    front = Line2D([], [], color=_FRONT, marker="o", ms=7, linewidth=1.6)
    other = Line2D([], [], **_OTHER, linestyle="none")
    names = ["front (numbers are trials)", "evaluated, not on the front"]
    figure.legend([front, other], names, loc="outside lower center", ncols=2, frameon=False)


def _mark(axes: Any, candidate: Candidate, point: _Point, *, oracle: bool = False) -> list[_Label]:
    """Draws what is special about a candidate and returns its label, none for an ordinary one."""
    words = []
    color = _FRONT
    if candidate.is_patchcore:
        axes.plot(*point, "s", ms=10, color=_PATCHCORE, mec="white", mew=0.8)
        words.append("PatchCore setting")
        color = _PATCHCORE
    if candidate.is_pick:
        axes.plot(*point, "*", ms=18, color=_PICK, mec="white", mew=0.8)
        words.append("pick")
        color = _PICK
    if oracle:
        words.append("best on test (not attainable)")
        color = color if candidate.is_pick else _ORACLE
    if not words:
        return [_Label(*point, str(candidate.number), color)] if candidate.on_front else []
    number = [] if candidate.number is None else [f"trial {candidate.number}"]
    text = f"{' = '.join(words)}\n{', '.join([*number, f'{point[1]:.1f} %'])}"
    return [_Label(*point, text, color, bold=True)]


def _place_labels(
    axes: Any, points: Sequence[_Point], line: Sequence[_Point], labels: Sequence[_Label]
) -> None:
    """Puts each label at the free place nearest to its point, the longest label first.

    A label that finds no free place is left out: crowded members of the front are in the table.
    """
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    pixel = axes.figure.dpi / 100
    taken = [_box(x, y, 6 * pixel) for x, y in _pixels(axes, points)]
    marked = [(label.x, label.y) for label in labels if label.bold]
    taken += [_box(x, y, 10 * pixel) for x, y in _pixels(axes, marked)]
    taken += [_box(x, y, 2 * pixel) for x, y in _along(_pixels(axes, line), 4 * pixel)]
    for label in sorted(labels, key=lambda label: -len(label.text)):
        ((x, y),) = _pixels(axes, [(label.x, label.y)])
        text = axes.text(
            0,
            0,
            label.text,
            fontsize=9,
            color=label.color,
            fontweight="bold" if label.bold else "normal",
            linespacing=1.15,
            transform=None,
            va="bottom",
            ha="left",
            zorder=5,
        )
        extent = text.get_window_extent(renderer)
        # A number far from its point would be taken for another's.
        for reach in _REACHES if label.bold else _REACHES[:3]:
            place = _free_place(x, y, reach * pixel, extent.width, extent.height, frame, taken)
            if place is not None:
                break
        if place is None:
            text.remove()
            continue
        text.set_position((place.x0, place.y0))
        taken.append(place)
        if reach > _REACHES[2]:
            end = (min(max(x, place.x0), place.x1), min(max(y, place.y0), place.y1))
            leader = Line2D(*zip((x, y), end, strict=True), color=label.color, linewidth=0.8)
            axes.figure.add_artist(leader)
            leader.set_transform(None)
            taken += [_box(*at, 2 * pixel) for at in _along([(x, y), end], 4 * pixel)]


def _pixels(axes: Any, points: Sequence[_Point]) -> list[_Point]:
    return [(float(x), float(y)) for x, y in map(axes.transData.transform, points)]


def _along(line: Sequence[_Point], step: float) -> list[_Point]:
    """Points on the line, at most `step` apart."""
    points = []
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        count = math.ceil(math.hypot(x1 - x0, y1 - y0) / step)
        points += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count)]
    return points


def _box(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _free_place(
    x: float,
    y: float,
    reach: float,
    width: float,
    height: float,
    frame: Bbox,
    taken: Sequence[Bbox],
) -> Bbox | None:
    """The first place around (x, y) that lies inside the frame and overlaps nothing."""
    diagonal = 0.75 * reach
    for left, bottom in (
        (x - width - diagonal, y + diagonal),
        (x - width / 2, y + reach),
        (x + diagonal, y + diagonal),
        (x + diagonal, y - diagonal - height),
        (x + reach, y - height / 2),
        (x - width / 2, y - reach - height),
        (x - width - reach, y - height / 2),
        (x - width - diagonal, y - diagonal - height),
    ):
        place = Bbox.from_bounds(left, bottom, width, height)
        inside = (
            place.x0 >= frame.x0
            and place.x1 <= frame.x1
            and place.y0 >= frame.y0
            and place.y1 <= frame.y1
        )
        if inside and not any(place.overlaps(other) for other in taken):
            return place
    return None


def _title(text: str, anomalies: int | None) -> str:
    return text if anomalies is None else f"{text} ({anomalies} anomalous images)"


def _test_rwap(candidate: Candidate) -> float:
    assert candidate.test is not None
    return candidate.test["rwAP"]
