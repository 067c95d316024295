from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from autopatch.report import Candidate, best_on_test, pareto_figure

MakeCandidates = Callable[..., list[Candidate]]
PATCHCORE = Candidate(
    None, "levels 8 and 16", 3 * 10**9, is_patchcore=True, test={"rwAP": 0.3, "AP": 0.2}
)


@pytest.mark.parametrize("front", [0, 1, 2, 12])
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("patchcore", [False, True])
def test_any_front_is_drawn(
    front: int, test: bool, patchcore: bool, make_candidates: MakeCandidates, tmp_path: Path
) -> None:
    candidates = make_candidates(15, front=front, test=test) + [PATCHCORE] * patchcore
    path = tmp_path / "pareto.png"
    pareto_figure(candidates, path, validation_anomalies=3)
    picture = Image.open(path)
    two_panels = (test and front > 0) or patchcore
    assert picture.width == (1500 if two_panels else 960)
    assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_no_candidate_at_all(tmp_path: Path) -> None:
    pareto_figure([], tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").is_file()


def test_equal_candidates_and_flat_values(tmp_path: Path) -> None:
    one = Candidate(0, "a", 10**9, validation={"rwAP": 0.0}, on_front=True, is_pick=True)
    pareto_figure([one, replace(one, number=1, is_pick=False)], tmp_path / "pareto.png")
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]


def test_the_picture_is_deterministic(make_candidates: MakeCandidates, tmp_path: Path) -> None:
    candidates = [*make_candidates(30, front=8, test=True), PATCHCORE]
    for name in ("a.png", "b.png"):
        pareto_figure(candidates, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labels_say_what_is_special_and_do_not_overlap(
    make_candidates: MakeCandidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    candidates = [*make_candidates(40, front=10, test=True), PATCHCORE]
    pareto_figure(candidates, tmp_path / "pareto.png")
    validation, test = figures[0].axes
    texts = {axes: [text.get_text() for text in axes.texts] for axes in (validation, test)}
    assert "pick\ntrial 9, 31.2 %" in texts[validation]
    assert "best on test (not attainable)\ntrial 0, 50.0 %" in texts[test]
    assert "PatchCore setting\n30.0 %" in texts[test]
    assert not any("best on test" in text for text in texts[validation])
    for axes in (validation, test):
        boxes = [text.get_window_extent() for text in axes.texts]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            assert axes.bbox.x0 <= box.x0
            assert box.x1 <= axes.bbox.x1
    assert validation.get_xlabel() == "total FLOPs [GFLOP an image]"
    assert validation.get_ylabel() == "rwAP [%]"
    assert validation.get_xscale() == "log"


def test_best_on_test(make_candidates: MakeCandidates) -> None:
    candidates = make_candidates(6, front=3, test=True)
    outside = Candidate(9, "x", 10**9, validation={"rwAP": 0.1}, test={"rwAP": 0.99})
    best = best_on_test([*candidates, outside, PATCHCORE])
    assert best is not None
    assert best.number == 0
    assert best_on_test([PATCHCORE, *make_candidates(3, front=3)]) is None


def test_nothing_is_half_written(
    make_candidates: MakeCandidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Figure, path: Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space"):
        pareto_figure(make_candidates(3, front=1), tmp_path / "pareto.png")
    assert list(tmp_path.iterdir()) == []


def test_zero_flops_have_no_place_on_the_axis(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cost"):
        pareto_figure([Candidate(0, "a", 0, validation={"rwAP": 0.5})], tmp_path / "pareto.png")


def test_pyplot_is_not_loaded() -> None:
    code = "import autopatch.report, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
