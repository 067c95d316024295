"""Searches that judge candidates by synthetic anomalies, with and without shots."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import pytest

from autopatch.data import draw_textures
from autopatch.errors import InputError
from autopatch.runs import Run, run_search
from autopatch.search import RULES

KINDS = ("scratch", "tone")
SMALL = {
    "space": "timm:test_efficientnet",
    "weights": "random",
    "reserve": 2,
    "evaluations": 4,
    "population": 3,
    "cost": "total_flops",
    "kinds": KINDS,
    "per_kind": 2,
    "choices": {"image_size": (64, 96), "patch_size": (1, 3), "bank_size": (20, 40)},
}


def results(run: Run) -> list[object]:
    evaluated = [(t.genome, t.evaluation) for t in run.trials]
    return [(genome, e.values, e.metrics, e.resampled) for genome, e in evaluated]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many good images as intervals need."""
    root = tmp_path_factory.mktemp("robust") / "data"
    return draw_textures(root, seed=8, image_size=64, train=25, test_good=3, per_type=4)


@pytest.fixture(scope="module")
def robust(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_search(data, tmp_path_factory.mktemp("robust") / "run", **SMALL)


@pytest.fixture(scope="module")
def good(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set without a test folder."""
    root = tmp_path_factory.mktemp("good") / "parts"
    shutil.copytree(data / "train", root / "train")
    return root


def test_the_default_rule_judges_by_kinds_and_shots(robust: Run) -> None:
    assert [o.name for o in robust.objectives] == ["total_flops", "robust_rwAP"]
    assert robust.rule == "robust"
    assert len(robust.split.validation) == 3
    drawn = [anomaly.sample.type for anomaly in robust.synthetic]
    assert drawn == ["scratch", "scratch", "tone", "tone"]
    assert {a.source for a in robust.synthetic} <= set(robust.split.holdout)
    for trial in robust.trials:
        metrics = trial.evaluation.metrics
        kinds = (metrics["rwAP.scratch"] + metrics["rwAP.tone"]) / 2
        assert min(kinds, metrics["rwAP"]) <= metrics["robust_rwAP"] <= max(kinds, metrics["rwAP"])
        assert trial.evaluation.values["robust_rwAP"] == metrics["robust_rwAP"]
        assert len(trial.evaluation.resampled["robust_rwAP"]) > 100
    best = max(robust.front.trials, key=lambda t: t.evaluation.values["robust_rwAP"]).evaluation
    pick = robust.pick.evaluation
    differences = best.differences(pick, "robust_rwAP")
    loss = best.values["robust_rwAP"] - pick.values["robust_rwAP"]
    assert loss <= statistics.pstdev(differences) / 4


def test_transplants_are_drawn_if_there_are_shots(data: Path, tmp_path: Path) -> None:
    run = run_search(data, tmp_path / "run", **SMALL | {"kinds": None, "evaluations": 1})
    assert [a.sample.type for a in run.synthetic[-2:]] == ["transplant"] * 2
    assert len({a.sample.type for a in run.synthetic}) == 7
    assert {a.shot for a in run.synthetic} - {None} <= set(run.split.validation)


def test_a_resumed_search_is_the_search_without_interruption(
    data: Path, robust: Run, tmp_path: Path
) -> None:
    run_search(data, tmp_path / "run", **SMALL | {"evaluations": 2})
    resumed = run_search(data, tmp_path / "run", resume=True, **SMALL)
    assert results(resumed) == results(robust)
    for other, message in (
        ({"per_kind": 3}, "`per_kind` = 2, cannot resume it with 3"),
        ({"kinds": ("scratch",)}, "`kinds` = "),
        ({"kinds": None, "rule": "best"}, '`rule` = "robust", cannot resume it with "best"'),
        ({"rule": "knee"}, '`rule` = "robust", cannot resume it with "knee"'),
        ({"shots": 2}, "`shots` = 1"),
    ):
        with pytest.raises(InputError, match=message):
            run_search(data, tmp_path / "run", resume=True, **SMALL | other)
    changed = resumed.synthetic[0].sample
    changed.image.write_bytes(resumed.synthetic[1].sample.image.read_bytes())
    with pytest.raises(InputError, match=f"{changed.image.name}: changed since it was drawn"):
        run_search(data, tmp_path / "run", resume=True, **SMALL | {"evaluations": 5})


def test_a_moved_data_set(data: Path, tmp_path: Path) -> None:
    here = shutil.copytree(data, tmp_path / "here" / "data")
    run_search(here, tmp_path / "run", **SMALL | {"evaluations": 2})
    there = tmp_path / "there" / "deeper" / "data"
    there.parent.mkdir(parents=True)
    here.rename(there)
    run = run_search(there, tmp_path / "run", resume=True, **SMALL)
    assert {a.source for a in run.synthetic} <= set(run.split.holdout)


def test_without_shots(data: Path, tmp_path: Path) -> None:
    run = run_search(data, tmp_path / "run", shots=0, **SMALL)
    assert run.split.validation == ()
    assert {t.architecture.head.defects for t in run.trials} == {None}
    metrics = run.pick.evaluation.metrics
    assert "rwAP" not in metrics
    assert metrics["robust_rwAP"] == pytest.approx(
        (metrics["rwAP.scratch"] + metrics["rwAP.tone"]) / 2
    )
    detector = run.fit()
    assert detector.known == ()
    assert detector.threshold.images == len(run.good)
    with pytest.raises(InputError, match="`rule` needs rwAP"):
        run.fit(rule="best", out=tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_first_day_with_good_images_only(good: Path, tmp_path: Path) -> None:
    run = run_search(good, tmp_path / "run", **SMALL)
    assert run.split.shots == 0
    assert {sample.type for sample in run.split.test} == {"good"}
    plain = run_search(good / "train" / "good", tmp_path / "plain", **SMALL)
    assert results(plain) == results(run)
    again = run_search(good, tmp_path / "run", resume=True, **SMALL)
    assert results(again) == results(run)
    with pytest.raises(InputError, match="measures rwAP, which needs them"):
        run_search(good, tmp_path / "best", **SMALL | {"rule": "best", "kinds": None})
    assert not (tmp_path / "best").exists()


def test_the_published_rule_draws_nothing(data: Path, tmp_path: Path) -> None:
    options = SMALL | {"rule": "best", "evaluations": 1, "kinds": None}
    run = run_search(data, tmp_path / "run", **options)
    assert [o.name for o in run.objectives] == ["total_flops", "rwAP"]
    assert run.synthetic == ()
    assert not (run.path / "synthetic").exists()
    with pytest.raises(InputError, match='`rule` = "best", cannot resume it with "robust"'):
        run_search(data, tmp_path / "run", resume=True, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": "best"},
            "`kinds` is given, but the search draws no synthetic anoma.*'best'",
        ),
        ({"shots": 0, "kinds": ["transplant"]}, "`kinds` has 'transplant', which needs `shots`"),
        ({"kinds": ["blur", "blur"]}, "`kinds` has 'blur' twice"),
        ({"min_image_auroc": 1.5}, "`min_image_auroc` is 1.5, expected 0 to 1"),
        (
            {"min_image_auroc": 0.5, "constraints": {"robust_image_AUROC": 0.5}},
            "`min_image_auroc` is given, but `constraints` bound robust_image_AUROC already",
        ),
        ({"rule": "knee", "objectives": ["robust_rwAP"]}, "`rule` is 'knee', but robust_rwAP"),
    ],
)
def test_wrong_choices_are_refused_before_anything_takes_long(
    data: Path,
    tmp_path: Path,
    options: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autopatch.runs.search.find_table", lambda *_, **__: pytest.fail("late"))
    cost = {} if "objectives" in options else {"cost": "latency"}
    settings = {name: value for name, value in SMALL.items() if name != "cost"}
    with pytest.raises(InputError, match=message):
        run_search(data, tmp_path / "run", **settings | cost | options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("rule", "name"), [(None, "robust_image_AUROC"), ("best", "image_AUROC")])
def test_the_bound_on_image_auroc_is_on_what_the_rule_knows(
    data: Path, tmp_path: Path, rule: str | None, name: str
) -> None:
    options = SMALL | {"rule": rule, "kinds": None, "evaluations": 1, "min_image_auroc": 0.25}
    run = run_search(data, tmp_path / "run", **options)
    assert [(c.name, c.bound) for c in run.constraints] == [(name, 0.25)]
    assert bool(run.synthetic) == (rule is None)


def test_lost_synthetic_anomalies_are_missed(data: Path, tmp_path: Path) -> None:
    run_search(data, tmp_path / "run", **SMALL | {"evaluations": 1})
    shutil.rmtree(tmp_path / "run" / "synthetic")
    with pytest.raises(InputError, match=r"anomalies.json: cannot be read"):
        _ = Run.open(tmp_path / "run").synthetic
    with pytest.raises(InputError, match="cannot resume it with null"):
        run_search(data, tmp_path / "run", resume=True, **SMALL)


def test_a_bound_on_image_auroc_without_shots(data: Path, tmp_path: Path) -> None:
    options = {"constraints": {"robust_image_AUROC": 0.999}, "evaluations": 2}
    run = run_search(data, tmp_path / "run", shots=0, **SMALL | options)
    assert all("robust_image_AUROC" in t.evaluation.bounded for t in run.trials)
    options = {"constraints": {"image_AUROC": 0.5}, "evaluations": 1}
    with pytest.raises(InputError, match="measures image_AUROC, which needs them"):
        run_search(data, tmp_path / "other", shots=0, **SMALL | options)


def test_fit_by_another_rule(robust: Run, tmp_path: Path) -> None:
    for rule in ("robust", "best", "knee"):
        detector = robust.fit(rule=rule, out=tmp_path / f"{rule}.safetensors")
        assert detector.architecture == robust.front.pick_by(RULES[rule]).architecture


def test_a_path_with_two_dots(data: Path, robust: Run, tmp_path: Path) -> None:
    away = data.parent / "away"
    away.mkdir(exist_ok=True)
    run = run_search(away / ".." / "data", tmp_path / "run", **SMALL)
    assert results(run) == results(robust)
    resumed = run_search(away / ".." / "data", tmp_path / "run", resume=True, **SMALL)
    assert {a.source for a in resumed.synthetic} <= set(robust.split.holdout)
    opened = Run.open(tmp_path / "run", data=away / ".." / "data")
    assert opened.split.holdout == robust.split.holdout
