from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from autopatch.report import Candidate, best_on_test, pareto_figure
from autopatch.search.objectives import OBJECTIVES, Objective

MakeCandidates = Callable[..., list[Candidate]]
Both = tuple[Objective, Objective]
PATCHCORE = Candidate(
    None, "levels 8 and 16", {"total_flops": 3e9}, is_patchcore=True, test={"rwAP": 0.3, "AP": 0.2}
)


@pytest.mark.parametrize(
    ("front", "test", "patchcore"),
    [
        *((0, False, False), (0, True, False), (0, False, True), (1, True, False)),
        *((1, False, True), (2, True, True), (12, False, False), (12, True, True)),
    ],
)
def test_any_front_is_drawn(
    front: int,
    test: bool,
    patchcore: bool,
    make_candidates: MakeCandidates,
    objectives: Both,
    tmp_path: Path,
) -> None:
    candidates = make_candidates(15, front=front, test=test) + [PATCHCORE] * patchcore
    path = tmp_path / "pareto.png"
    pareto_figure(candidates, path, objectives=objectives, validation="3 anomalous images")
    picture = Image.open(path)
    two_panels = (test and front > 0) or patchcore
    assert picture.width == (1500 if two_panels else 960)
    assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_no_candidate_at_all(objectives: Both, tmp_path: Path) -> None:
    pareto_figure([], tmp_path / "pareto.png", objectives=objectives)
    assert (tmp_path / "pareto.png").is_file()


def test_equal_candidates_and_flat_values(objectives: Both, tmp_path: Path) -> None:
    one = Candidate(0, "a", {"total_flops": 1e9, "rwAP": 0.0}, on_front=True, is_pick=True)
    two = replace(one, number=1, is_pick=False)
    pareto_figure([one, two], tmp_path / "pareto.png", objectives=objectives)
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]


def test_the_picture_is_deterministic(
    make_candidates: MakeCandidates, objectives: Both, tmp_path: Path
) -> None:
    candidates = [*make_candidates(30, front=8, test=True), PATCHCORE]
    for name in ("a.png", "b.png"):
        pareto_figure(candidates, tmp_path / name, objectives=objectives)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labels_say_what_is_special_and_do_not_overlap(
    make_candidates: MakeCandidates,
    objectives: Both,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures: list[Figure] = []
    save = FigureCanvasAgg.print_png

    def keep(self: FigureCanvasAgg, *args: object, **kwargs: object) -> None:
        figures.append(self.figure)
        save(self, *args, **kwargs)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", keep)
    candidates = [*make_candidates(40, front=10, test=True), PATCHCORE]
    pareto_figure(candidates, tmp_path / "pareto.png", objectives=objectives)
    validation, test = figures[0].axes
    texts = {axes: [text.get_text() for text in axes.texts] for axes in (validation, test)}
    assert "pick\ntrial 9, 31.2 %" in texts[validation]
    assert "best of the front (test labels)\ntrial 0, 50.0 %" in texts[test]
    assert "PatchCore baseline\n30.0 %" in texts[test]
    assert not any("best on test" in text for text in texts[validation])
    for axes in (validation, test):
        boxes = [text.get_window_extent() for text in axes.texts]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            assert axes.bbox.x0 <= box.x0
            assert box.x1 <= axes.bbox.x1
    assert validation.get_xlabel() == "total FLOPs [GFLOP per image]"
    assert validation.get_ylabel() == "rwAP [%]"
    assert validation.get_xscale() == "log"


def test_best_on_test(make_candidates: MakeCandidates, objectives: Both) -> None:
    candidates = make_candidates(6, front=3, test=True)
    outside = Candidate(9, "x", {"total_flops": 1e9, "rwAP": 0.1}, test={"rwAP": 0.99})
    best = best_on_test([*candidates, outside, PATCHCORE], objectives)
    assert best is not None
    assert best.number == 0
    cheaper = replace(candidates[0], number=7, values={"total_flops": 5e8, "rwAP": 0.1})
    best = best_on_test([*candidates, cheaper], objectives)
    assert best is not None
    assert best.number == 7
    assert best_on_test([PATCHCORE, *make_candidates(3, front=3)], objectives) is None


def test_best_on_test_of_a_search_by_synthetic_anomalies(make_candidates: MakeCandidates) -> None:
    robust = (OBJECTIVES["total_flops"], OBJECTIVES["robust_rwAP"])
    best = best_on_test(make_candidates(6, front=3, test=True), robust)
    assert best is not None
    assert best.number == 0


@pytest.mark.parametrize(("direction", "number"), [("maximize", 2), ("minimize", 0)])
def test_best_on_test_by_the_last_objective(
    make_candidates: MakeCandidates, objectives: Both, direction: str, number: int
) -> None:
    flops, rwap = objectives
    worth = replace(rwap, name="worth", direction=direction)
    candidates = [
        replace(c, test={"rwAP": 0.9 - 0.1 * i, "worth": 1.0 + i})
        for i, c in enumerate(make_candidates(3, front=3, test=True))
    ]
    best = best_on_test(candidates, (flops, worth))
    assert best is not None
    assert best.number == number


def test_nothing_is_half_written(
    make_candidates: MakeCandidates,
    objectives: Both,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: FigureCanvasAgg, *args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", fail)
    candidates = make_candidates(3, front=1)
    with pytest.raises(OSError, match="no space"):
        pareto_figure(candidates, tmp_path / "pareto.png", objectives=objectives)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("cost", "scale"), [(0.0, "linear"), (-1e9, "linear"), (1e9, "log")])
def test_costs_that_have_no_logarithm_get_a_linear_axis(
    objectives: Both,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cost: float,
    scale: str,
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(
        FigureCanvasAgg, "print_png", lambda self, *args, **kwargs: figures.append(self.figure)
    )
    candidates = [
        Candidate(number, "a", {"total_flops": cost * number, "rwAP": 0.1 * number}, on_front=True)
        for number in (1, 2, 3)
    ]
    pareto_figure(candidates, tmp_path / "pareto.png", objectives=objectives)
    axes = figures[0].axes[0]
    low, high = axes.get_xlim()
    assert axes.get_xscale() == scale
    assert all(low < cost * number / 1e9 < high for number in (1, 2, 3))


def test_the_line_passes_over_what_a_further_objective_keeps_on_the_front(
    objectives: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(
        FigureCanvasAgg, "print_png", lambda self, *args, **kwargs: figures.append(self.figure)
    )
    flops, quality = objectives
    time = replace(flops, name="time", label="time (one image)", unit="ms", scale=1e-3)
    candidates = [
        Candidate(i, "a", {"total_flops": x, "time": 0.002 * x, "rwAP": y}, on_front=True)
        for i, (x, y) in enumerate(((1.0, 0.2), (2.0, 0.1), (3.0, 0.4)))
    ]
    pareto_figure(candidates, tmp_path / "pareto.png", objectives=(time, flops, quality))
    (axes,) = figures[0].axes
    line, front = axes.lines
    assert list(line.get_ydata())[:-1] == pytest.approx([20, 20, 40])
    assert list(front.get_ydata()) == pytest.approx([20, 10, 40])
    assert list(front.get_xdata()) == pytest.approx([2, 4, 6])
    assert axes.get_xlabel() == "time [ms]"


def test_intervals_of_the_front_are_bars(
    make_candidates: MakeCandidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(
        FigureCanvasAgg, "print_png", lambda self, *args, **kwargs: figures.append(self.figure)
    )
    ends = {"robust_rwAP.low": 0.1, "robust_rwAP.high": 0.9}
    candidates = [
        replace(
            c,
            values={"total_flops": c.values["total_flops"], "robust_rwAP": 0.3},
            validation=ends if c.number != 1 else {},
        )
        for c in make_candidates(4, front=3, test=True)
    ]
    objectives = (OBJECTIVES["total_flops"], OBJECTIVES["robust_rwAP"])
    path = tmp_path / "pareto.png"
    pareto_figure(candidates, path, objectives=objectives, validation="9 synthetic anomalies")
    validation, test = figures[0].axes
    bars = [line for line in validation.lines if list(line.get_ydata()) == pytest.approx([10, 90])]
    assert [list(bar.get_xdata()) for bar in bars] == [[1, 1], [3, 3]]
    assert validation.get_ylim()[1] > 90
    assert validation.get_title().endswith("\n9 synthetic anomalies")
    # The test set has no synthetic anomalies.
    assert validation.get_ylabel() == "robust rwAP [%]"
    assert test.get_ylabel() == "rwAP [%]"
    assert any(list(line.get_ydata()) == pytest.approx([50, 49, 48]) for line in test.lines)


def test_pyplot_is_not_loaded() -> None:
    code = "import autopatch.report, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
