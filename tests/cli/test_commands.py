"""The commands on small drawn textures, one after the other as a user would."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from autopatch.detector import Detector
from autopatch.search import load_trials
from autopatch.search.candidates import CandidateEvaluator


def test_help_is_quick_and_names_every_command():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "autopatch", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    commands = [
        "search",
        "fit",
        "predict",
        "evaluate",
        "report",
        "check-data",
        "info",
        "demo",
        "import-study",
    ]
    for command in commands:
        assert command in result.stdout
    assert "| torch\n" not in result.stderr


def test_an_interrupted_candidate_is_none_of_the_report(
    autopatch, search_arguments, monkeypatch, tmp_path
):
    scored = CandidateEvaluator.__call__
    calls = []

    def interrupted(self, architecture):
        calls.append(architecture)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scored(self, architecture)

    monkeypatch.setattr(CandidateEvaluator, "__call__", interrupted)
    assert autopatch(*search_arguments)[0] == 130
    assert autopatch(*search_arguments, "--resume")[0] == 0
    assert len(load_trials(tmp_path / "run" / "study.db")) == 9
    code, out, err = autopatch("report", tmp_path / "run")
    assert code == 0, err
    assert "RANDOM" in out
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "8 of 8 architectures were evaluated;" in page
    assert "without a result" not in page
    assert "nsga2 (pymoo " in page


def test_images_that_changed_since_the_search(autopatch, search_arguments, textures, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(textures, data)
    search_arguments[1] = data
    assert autopatch(*search_arguments)[0] == 0
    run = tmp_path / "run"
    assert autopatch("fit", run)[0] == 0
    image = max((data / "test" / "hole").iterdir())
    image.write_bytes(max((data / "test" / "stain").iterdir()).read_bytes())
    for command in (
        ["fit", run, "--out", tmp_path / "again.safetensors"],
        ["evaluate", run],
        ["report", run],
    ):
        code, _, err = autopatch(*command)
        assert code == 2
        assert err.count("\n") == 1
        assert f"{data}: its images were changed since the search" in err
    assert not (tmp_path / "again.safetensors").exists()


def test_info(autopatch):
    code, out, _ = autopatch("info")
    assert code == 0
    for word in ("torch", "ISA detected", "ISA active", "CUDA", "threads", "cache"):
        assert word in out


def test_check_data(autopatch, textures):
    code, out, _ = autopatch("check-data", textures)
    assert code == 0
    assert "train/good" in out
    assert "no problems" in out


def test_the_demo_has_real_features(autopatch, tmp_path):
    code, out, err = autopatch("demo", "--out", tmp_path / "demo", "--evaluations", "4")
    assert code == 0, err
    assert "weights of autopatch_s in this package" in out
    assert "RANDOM" not in out
    rows = json.loads((tmp_path / "demo" / "run" / "evaluation.json").read_text())["rows"]
    patchcore = next(row for row in rows if row["kind"] == "patchcore")
    assert patchcore["metrics"]["rwAP"] > 0.4  # 0.5 by its measure; of random weights 0.03
    assert (tmp_path / "demo" / "predictions" / "scores.csv").is_file()


def test_the_whole_way(autopatch, search_arguments, textures, tmp_path):
    run = tmp_path / "run"
    code, out, err = autopatch(*search_arguments)
    assert code == 0, err
    assert "RANDOM" in out
    trials = load_trials(run / "study.db")
    assert len(trials) == 8
    assert all(trial.evaluation for trial in trials)

    code, out, err = autopatch("fit", run)
    assert code == 0, err
    assert "RANDOM" in out
    assert "false-alarm rate" in out
    detector = Detector.load(run / "detector.safetensors")
    best = max(t.evaluation.metrics["rwAP"] for t in trials)
    assert detector.architecture in [
        t.architecture for t in trials if t.evaluation.metrics["rwAP"] == best
    ]

    code, _, err = autopatch("fit", run)
    assert code == 2
    assert "exists" in err

    code, out, err = autopatch("evaluate", run)
    assert code == 0, err
    assert "PatchCore setting" in out
    assert "not attainable" in out

    code, _, err = autopatch("report", run)
    assert code == 0, err
    page = (run / "report" / "report.html").read_text()
    assert "RANDOM" in page
    assert "PatchCore setting" in page
    assert (run / "report" / "pareto.png").is_file()
    with (run / "report" / "front.csv").open() as file:
        assert all("RANDOM" in row["features"] for row in csv.DictReader(file))
    assert "RANDOM" in (run / "evaluation.json").read_text()

    out_folder = tmp_path / "results"
    code, out, err = autopatch(
        "predict", run / "detector.safetensors", textures / "test", "--out", out_folder
    )
    assert code == 0, err
    with (out_folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + 3 * 6
    for row in rows:
        assert "RANDOM" in row["features"]
        assert row["verdict"] == (
            "anomalous" if float(row["score"]) > float(row["threshold"]) else "good"
        )
    anomaly_map = np.load(out_folder / "maps" / "hole" / "000.npy")
    assert anomaly_map.shape == (224, 224)
    score = next(row["score"] for row in rows if row["image"].endswith("hole/000.png"))
    assert anomaly_map.max() == pytest.approx(float(score), rel=1e-6)
    with Image.open(out_folder / "overlays" / "hole" / "000.png") as picture:
        assert picture.size == (256, 256)


def test_a_killed_search_resumes_to_the_same_front(autopatch, search_arguments, tmp_path):
    whole = [*search_arguments[:-1], tmp_path / "whole"]
    assert autopatch(*whole)[0] == 0

    command = [sys.executable, "-m", "autopatch", *map(str, search_arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    study = tmp_path / "run" / "study.db"
    deadline = time.monotonic() + 120
    try:
        while not (study.is_file() and len(load_trials(study)) >= 3):
            assert process.poll() is None, "the search ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    code, _, err = autopatch(*search_arguments)
    assert code == 2
    assert "--resume" in err

    code, _, err = autopatch(*search_arguments, "--resume")
    assert code == 0, err

    def results(path):
        return [
            (trial.genome, trial.evaluation.cost, trial.evaluation.metrics)
            for trial in load_trials(path)
            if trial.evaluation
        ]

    assert results(study) == results(tmp_path / "whole" / "study.db")


def test_resume_with_another_seed(autopatch, search_arguments):
    assert autopatch(*search_arguments)[0] == 0
    code, _, err = autopatch(*search_arguments, "--seed", "1", "--resume")
    assert code == 2
    assert err.count("\n") == 1
