"""Searches by synthetic anomalies: what is tested, and what users read about it."""

import shutil

import pytest

from autopatch.cli.tables import print_front, print_results
from autopatch.data import load_anomalies
from autopatch.errors import InputError
from autopatch.runs import TestResults, run_search
from autopatch.runs.testing import SYNTHETIC_TEST, TestSet
from autopatch.search import OBJECTIVES

ROBUST = {"objectives": ("total_flops", "robust_rwAP"), "per_kind": 2, "evaluations": 2}


@pytest.fixture
def robust(settings):
    """Settings of a small search by synthetic anomalies, of two kinds."""
    choices = {**settings["choices"], "image_size": (64,)}
    return settings | ROBUST | {"kinds": ("scratch", "cutpaste"), "choices": choices}


def test_a_data_set_without_anomalous_images(robust, moved, tmp_path, capsys):
    good = tmp_path / "good" / "train" / "good"
    shutil.copytree(moved / "data" / "train" / "good", good)
    asked = robust | {"data": good.parents[1], "shots": 0}
    run = run_search(out=tmp_path / "run", **asked)
    assert not any(sample.label for sample in run.split.test)
    detector = run.fit()
    results = run.evaluate()

    folder = run.path / SYNTHETIC_TEST
    drawn = load_anomalies(folder)
    assert {anomaly.source for anomaly in drawn} <= set(run.split.test)
    assert [anomaly.sample.type for anomaly in drawn] == ["scratch"] * 2 + ["cutpaste"] * 2
    tested = TestSet.of(run)
    assert tested.synthetic
    assert tested.samples == (*run.split.test, *(anomaly.sample for anomaly in drawn))
    # The search draws with another seed, and on other images.
    searched = {anomaly.sample.image.read_bytes() for anomaly in run.synthetic}
    assert not searched & {anomaly.sample.image.read_bytes() for anomaly in drawn}

    assert results.synthetic
    assert TestResults.load(run.path) == results
    assert results.objectives == (OBJECTIVES["total_flops"], OBJECTIVES["rwAP"])
    assert results.rows[0].verdicts.anomalous == {"cutpaste": 2, "scratch": 2}
    best = max(row.metrics["rwAP"] for row in results.front)
    assert results.best_of_front.metrics["rwAP"] == best

    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    page = run.report(detector).read_text()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    assert "synthetic anomalies (2 cutpaste, 2 scratch)" in page
    assert "The data set has no images of real defects" in page
    assert "synthetic scratch" in page
    assert 'The rule "robust" picked it.' in page
    assert (run.report_path.parent / "synthetic.png").is_file()

    print_results(run, results)
    said = " ".join(capsys.readouterr().out.split())
    assert "3 good images and synthetic anomalies drawn on them" in said
    assert "Of 4 test images with synthetic anomalies it misses" in said
    assert "Images of real defects would help most" in said
    assert "cannot certify the 5 % of false alarms" in said

    next(iter(folder.rglob("*_mask.png"))).unlink()
    with pytest.raises(InputError, match="missing, expected the file"):
        run.evaluate()


def test_a_search_by_synthetic_anomalies_and_shots(robust, tmp_path, capsys):
    run = run_search(out=tmp_path / "run", **robust)
    tested = TestSet.of(run)
    assert tested.samples == run.split.test
    assert not tested.synthetic
    assert not (run.path / SYNTHETIC_TEST).exists()
    print_front(run)
    said = " ".join(capsys.readouterr().out.split())
    assert "validation set (4 synthetic anomalies and 3 shots)" in said
    assert "the rule 'robust' picked trial" in said
    assert "4 synthetic anomalies (2 scratch, 2 cutpaste) and 3 shots (1 hole, 1 scratch" in said
    found = run.pick.evaluation.metrics
    assert f"{100 * found['robust_rwAP']:.1f}" in said
    assert f"{100 * found['rwAP.scratch']:.1f}" in said
    assert "on the anomalies of each kind, the worst first" in said
    assert "More good images would help most" in said
    assert "shots (real anomalies)" in said


def test_the_quality_of_the_search_has_the_first_column(finished, capsys):
    print_front(finished)
    said = " ".join(capsys.readouterr().out.split())
    assert "validation set (3 anomalous images)" in said
    found = finished.pick.evaluation.metrics
    assert f"{100 * found['rwAP']:.1f}" in said
    assert "–" not in said  # too few good images for intervals
    assert "trial 0" in said
