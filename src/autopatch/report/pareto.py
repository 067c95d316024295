"""Plots a search: all candidates, the Pareto front, and the results on the test set."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from autopatch.files import StrPath, write_bytes_atomically
from autopatch.report.metrics import as_tested, bounds, with_unit
from autopatch.search.objectives import Objective

_FRONT = "#1f5fa8"
_PICK = "#c8102e"
_PATCHCORE = "#b86a00"
_ORACLE = "#2e7d32"
# Distances from a point to its label in pixels at 100 dpi, tried in this order.
_REACHES = (10, 14, 19, 25, 34, 45, 60, 80, 105, 135, 170, 210)
_OTHER: dict[str, Any] = {"marker": "o", "ms": 5, "mfc": "#d0d0d0", "mec": "#8c8c8c", "mew": 0.7}
_BAR: dict[str, Any] = {"linewidth": 1, "alpha": 0.45}


@dataclass(frozen=True)
class Candidate:
    """One detector in a report.

    Attributes:
        number: Number of its trial; None if the search did not evaluate it.
        label: Its architecture in words.
        values: Values of the objectives by name. The quality is present only if the search
            evaluated the detector; the other objectives always are.
        backbone_flops: FLOPs per image of the backbone alone; None if unknown.
        validation: Metrics on the validation set by name, each in [0, 1], with their intervals;
            empty if the search did not evaluate the detector.
        on_front: Whether it is on the Pareto front.
        is_pick: Whether it is the pick of the search.
        is_patchcore: Whether it is the PatchCore baseline of the backbone.
        test: Metrics and values of the objectives on the test set by name; None if not measured.
    """

    number: int | None
    label: str
    values: Mapping[str, float]
    backbone_flops: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    on_front: bool = False
    is_pick: bool = False
    is_patchcore: bool = False
    test: Mapping[str, float] | None = None

    @property
    def name(self) -> str:
        """The name in tables: the trial's number, or "PatchCore baseline"."""
        return "PatchCore baseline" if self.number is None else f"trial {self.number}"


def best_on_test(
    candidates: Sequence[Candidate], objectives: Sequence[Objective]
) -> Candidate | None:
    """The member of the front with the best quality on the test set: the last objective as the test
    set measures it, see `as_tested`.

    Ties go to the lower cost (first objective), then to the first member. No search can choose this
    candidate, because the choice needs the labels of the test set.

    Returns:
        The candidate; None if no member of the front was tested.
    """
    cost, quality = objectives[0], as_tested(objectives[-1])
    sign = -1 if quality.is_maximized else 1
    measured = [
        (sign * c.test[quality.name], cost.loss(c.values[cost.name]), place)
        for place, c in enumerate(candidates)
        if c.on_front and c.test is not None and quality.name in c.test
    ]
    return candidates[min(measured)[-1]] if measured else None


def short_label(objective: Objective) -> str:
    """The label of an objective, without the part in parentheses."""
    return objective.label.partition(" (")[0]


def pareto_figure(
    candidates: Sequence[Candidate],
    path: StrPath,
    *,
    objectives: Sequence[Objective],
    validation: str | None = None,
    test: str | None = None,
    warning: str | None = None,
) -> None:
    """Plots quality against cost on the validation set and, if measured, on the test set.

    Bars are the 90 % intervals of the front on the validation set.

    Args:
        candidates: All evaluated candidates, and the PatchCore baseline for comparison.
        path: PNG file to write; it appears complete or not at all.
        objectives: Objectives of the search. The first is the cost; its axis is logarithmic if all
            values are above 0. The last is the quality.
        validation: The anomalies of the validation set in words, for the title.
        test: Those of the test set.
        warning: A line of text at the top; None for no line.

    Raises:
        InputError: The file cannot be written.
    """
    cost, quality = objectives[0], objectives[-1]
    costs = [cost.display(c.values[cost.name]) for c in candidates]
    seen = _placed(candidates, costs, quality, [c.values for c in candidates])
    on_test = as_tested(quality)
    tested = _placed(candidates, costs, on_test, [c.test or {} for c in candidates])
    layout = ConstrainedLayoutEngine()
    figure = Figure(figsize=(12.5 if tested else 8, 5.2), dpi=120, layout=layout)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if tested else 1, sharex=True, sharey=True, squeeze=False)[0]
    for axes in panels:
        _style(axes, cost, logarithmic=all(x > 0 for x in costs))
    # Both panels share their bounds. Set them before placing labels.
    ends = [y for _, bar in _intervals(seen, quality) for _, y in bar]
    _set_bounds(panels[0], costs, [*ends, *(y for _, (_, y) in (*seen, *tested))], quality)
    drawn = [_draw_validation(panels[0], seen, quality)]
    panels[0].set_ylabel(_axis(quality.short_name, quality.unit))
    panels[0].set_title(_title("Validation set, used by the search", validation))
    if tested:
        oracle = best_on_test([c for c, _ in tested], objectives)
        drawn.append(_draw_test(panels[1], tested, on_test, oracle))
        panels[1].set_title(_title("Test set, not used by the search", test))
        if on_test != quality:
            panels[1].set_ylabel(_axis(on_test.short_name, on_test.unit))
    if warning is not None:
        figure.suptitle(warning, color=_PICK, fontweight="bold")
    _draw_legend(figure, has_intervals=bool(ends))
    # `draw_without_rendering` and `savefig` would draw everything once more each.
    layout.execute(figure)
    figure.set_layout_engine("none")
    for axes, (points, lines, labels) in zip(panels, drawn, strict=True):
        _place_labels(axes, points, lines, labels)
    picture = io.BytesIO()
    canvas.print_png(picture, metadata={"Software": None})
    write_bytes_atomically(path, picture.getvalue())


_Point = tuple[float, float]
_Placed = list[tuple[Candidate, _Point]]


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    color: str
    bold: bool = False


def _placed(
    candidates: Sequence[Candidate],
    costs: Sequence[float],
    quality: Objective,
    values: Sequence[Mapping[str, float]],
) -> _Placed:
    """The candidates that have a quality, with their points (cost, quality)."""
    return [
        (candidate, (cost, quality.display(held[quality.name])))
        for candidate, cost, held in zip(candidates, costs, values, strict=True)
        if quality.name in held
    ]


def _style(axes: Any, cost: Objective, *, logarithmic: bool) -> None:
    unit = f"{cost.unit} per image" if cost.unit.endswith("FLOP") else cost.unit
    axes.set_xscale("log" if logarithmic else "linear")
    axes.set_xlabel(_axis(short_label(cost), unit))
    axes.grid(which="major", color="#e4e4e4", linewidth=0.8)
    axes.grid(which="minor", axis="x", color="#f2f2f2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelleft=True)


def _set_bounds(
    axes: Any, costs: Sequence[float], qualities: Sequence[float], quality: Objective
) -> None:
    costs = costs or [0.1, 10]
    low, high = min(costs), max(costs)
    top = max(max(qualities, default=quality.display(1.0)), quality.display(0.05))
    axes.set_ylim(-0.05 * top, 1.18 * top)
    if axes.get_xscale() == "linear":
        margin = max(0.1 * (high - low), 0.5)
        axes.set_xlim(low - margin, high + margin)
        return
    margin = max((high / low) ** 0.1, 1.3)
    axes.set_xlim(low / margin, high * margin)
    spread = high / low * margin**2
    # A narrow range holds few powers of ten, so label more ticks.
    subs = (1.0,) if spread > 300 else (1.0, 2.0, 5.0) if spread > 8 else tuple(range(1, 10))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10))))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_validation(
    axes: Any, seen: _Placed, quality: Objective
) -> tuple[list[_Point], list[list[_Point]], list[_Label]]:
    """Returns all points, the corners of the lines (the front and its intervals), and the labels to
    place."""
    others = [point for c, point in seen if not c.on_front]
    front = sorted(point for c, point in seen if c.on_front)
    if others:
        axes.plot(*zip(*others, strict=True), **_OTHER, linestyle="none")
    line: list[_Point] = []
    if front:
        # With three or more objectives, members of the front may lie below the line.
        for x, y in front:
            if not line:
                line.append((x, y))
            elif y >= line[-1][1]:
                line += [(x, line[-1][1]), (x, y)]
        # Extend the line to the right edge: no candidate with a higher cost is better.
        line.append((axes.get_xlim()[1], line[-1][1]))
        axes.plot(*zip(*line, strict=True), color=_FRONT, linewidth=1.6)
        axes.plot(*zip(*front, strict=True), "o", ms=7, color=_FRONT)
    bars = _intervals(seen, quality)
    for candidate, bar in bars:
        color = _PICK if candidate.is_pick else _FRONT
        axes.plot(*zip(*bar, strict=True), color=color, **_BAR)
    labels = [label for c, point in seen for label in _mark(axes, c, point, quality)]
    return [point for _, point in seen], [line, *(bar for _, bar in bars)], labels


def _intervals(seen: _Placed, quality: Objective) -> list[tuple[Candidate, list[_Point]]]:
    """The ends of the intervals of the front."""
    found = []
    for candidate, (x, _) in seen:
        interval = bounds(candidate.validation, quality.name)
        if candidate.on_front and interval is not None:
            found.append((candidate, [(x, quality.display(end)) for end in interval]))
    return found


def _draw_test(
    axes: Any, tested: _Placed, quality: Objective, oracle: Candidate | None
) -> tuple[list[_Point], list[list[_Point]], list[_Label]]:
    front = sorted(point for c, point in tested if c.on_front)
    if front:
        axes.plot(*zip(*front, strict=True), ":o", ms=7, color=_FRONT, linewidth=1)
    labels = []
    for candidate, point in tested:
        if candidate is oracle:
            axes.plot(*point, "o", ms=17, mfc="none", mec=_ORACLE, mew=2)
        labels += _mark(axes, candidate, point, quality, oracle=candidate is oracle)
    return [point for _, point in tested], [front], labels


def _draw_legend(figure: Figure, *, has_intervals: bool) -> None:
    """Explains the markers that every plot has; other markers have labels in the plot."""
    front = Line2D([], [], color=_FRONT, marker="o", ms=7, linewidth=1.6)
    other = Line2D([], [], **_OTHER, linestyle="none")
    bar = Line2D([], [], **_BAR, color=_FRONT, marker="|", ms=14, linestyle="none")
    entries = [
        (front, "front (numbers are trials)"),
        (other, "evaluated, not on the front"),
        *([(bar, "90 % interval")] if has_intervals else []),
    ]
    handles, names = zip(*entries, strict=True)
    figure.legend(handles, names, loc="outside lower center", ncols=len(entries), frameon=False)


def _mark(
    axes: Any, candidate: Candidate, point: _Point, quality: Objective, *, oracle: bool = False
) -> list[_Label]:
    """Marks a special candidate and returns its label; ordinary candidates have none."""
    words = []
    color = _FRONT
    if candidate.is_patchcore:
        axes.plot(*point, "s", ms=10, color=_PATCHCORE, mec="white", mew=0.8)
        words.append("PatchCore baseline")
        color = _PATCHCORE
    if candidate.is_pick:
        axes.plot(*point, "*", ms=18, color=_PICK, mec="white", mew=0.8)
        words.append("pick")
        color = _PICK
    if oracle:
        words.append("best of the front (test labels)")
        color = color if candidate.is_pick else _ORACLE
    if not words:
        return [_Label(*point, str(candidate.number), color)] if candidate.on_front else []
    number = [] if candidate.number is None else [f"trial {candidate.number}"]
    number.append(with_unit(f"{point[1]:.1f}", quality))
    text = f"{' = '.join(words)}\n{', '.join(number)}"
    return [_Label(*point, text, color, bold=True)]


def _place_labels(
    axes: Any,
    points: Sequence[_Point],
    lines: Sequence[Sequence[_Point]],
    labels: Sequence[_Label],
) -> None:
    """Places each label in the free space nearest to its point, the longest label first.

    Labels without free space are dropped; the table lists every member of the front anyway.
    """
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    pixel = axes.figure.dpi / 100
    taken = [_box(x, y, 6 * pixel) for x, y in _pixels(axes, points)]
    marked = [(label.x, label.y) for label in labels if label.bold]
    taken += [_box(x, y, 10 * pixel) for x, y in _pixels(axes, marked)]
    for line in lines:
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
        # A number far from its point could be mistaken for another point's.
        for reach in _REACHES if label.bold else _REACHES[:3]:
            place = _free_place(x, y, reach * pixel, extent.width, extent.height, frame, taken)
            if place is not None:
                break
        if place is None:
            text.remove()
            continue
        text.set_position((place.x0, place.y0))
        taken.append(place.padded(4 * pixel))  # or two numbers read as one
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
    """The first position around (x, y) that is inside the frame and overlaps nothing."""
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


def _axis(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def _title(text: str, anomalies: str | None) -> str:
    return text if anomalies is None else f"{text}\n{anomalies}"
