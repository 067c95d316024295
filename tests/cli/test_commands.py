"""The commands on small drawn textures, in the order in which a user would run them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import autopatch as package
from autopatch import _C
from autopatch.data import draw_textures
from autopatch.detector import Detector
from autopatch.runs import Run, demo, run_search
from autopatch.search import CandidateEvaluator, load_trials
from autopatch.supernet import load_supernet

CLI = Path(package.__file__).parent / "cli"
# As few images as a search needs.
FEW = {"seed": 1, "image_size": 64, "train": 10, "test_good": 2, "per_type": 3}


def test_the_command_line_is_thin():
    for module in CLI.glob("*.py"):
        assert len(module.read_text().splitlines()) <= 300, module.name


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
        "measure-latency",
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
    assert "gp (scipy " in page


def test_images_that_changed_since_the_search(autopatch, search_arguments, tmp_path):
    data = draw_textures(tmp_path / "data", **FEW)
    search_arguments[1] = data
    assert autopatch(*search_arguments, "--evaluations", "4")[0] == 0
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
        assert f"{data}: 1 image was changed: test/hole/002.png, since the search of {run}" in err
    assert not (tmp_path / "again.safetensors").exists()


def test_info(autopatch):
    code, out, _ = autopatch("info")
    assert code == 0
    for word in ("torch", "ISA detected", "ISA active", "CUDA", "threads", "cache"):
        assert word in out


def test_info_says_why_there_is_no_cuda(autopatch, monkeypatch):
    monkeypatch.setattr(_C, "cuda_built", False)
    monkeypatch.setattr(_C, "cuda_reason", "nvcc is too old")
    assert "CUDA:         not built: nvcc is too old\n" in autopatch("info")[1]


def test_check_data(autopatch, textures):
    code, out, _ = autopatch("check-data", textures)
    assert code == 0
    assert "train/good" in out
    assert "no problems" in out
    assert "groups" not in out
    code, out, _ = autopatch("check-data", textures, "--group-regex", r"^\d*(\d)")
    assert code == 0
    assert "10 groups" in out


def test_the_demo_has_real_features(autopatch, tmp_path, monkeypatch):
    fewer = partial(draw_textures, train=12, test_good=4, per_type=5)
    monkeypatch.setattr(demo, "draw_textures", fewer)
    code, out, err = autopatch("demo", "--out", tmp_path / "demo", "--evaluations", "2")
    assert code == 0, err
    assert "weights of autopatch_s in this package" in out
    assert "RANDOM" not in out
    rows = json.loads((tmp_path / "demo" / "run" / "evaluation.json").read_text())["rows"]
    patchcore = next(row for row in rows if row["kind"] == "patchcore")
    assert patchcore["metrics"]["rwAP"] > 0.4  # 0.5 by its measure; of random weights 0.03
    assert (tmp_path / "demo" / "predictions" / "scores.csv").is_file()
    assert (tmp_path / "demo" / "run" / "report" / "report.html").is_file()
    assert f"drawing textured parts into {tmp_path / 'demo' / 'data'}" in out
    assert "Pareto front, validation set" in out
    assert "PatchCore" in out

    code, _, err = autopatch("demo", "--out", tmp_path / "demo")
    assert code == 2
    assert err == f"autopatch: {tmp_path / 'demo'}: exists; remove it or give another --out\n"


@pytest.fixture
def few_textures(monkeypatch):
    """A demo of fewer and smaller images."""
    few = partial(draw_textures, image_size=64, train=10, test_good=2, per_type=5)
    monkeypatch.setattr(demo, "draw_textures", few)


@pytest.mark.usefixtures("few_textures")
def test_a_demo_that_is_refused_leaves_its_place_free(autopatch, tmp_path):
    code, _, err = autopatch("demo", "--out", tmp_path / "demo", "--evaluations", "0")
    assert code == 2
    assert "evaluations is 0" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_textures")
def test_an_interrupted_demo_can_be_repeated(autopatch, tmp_path, monkeypatch):
    def interrupted(self, architecture):
        raise KeyboardInterrupt

    monkeypatch.setattr(CandidateEvaluator, "__call__", interrupted)
    code, _, err = autopatch("demo", "--out", tmp_path / "demo", "--evaluations", "4")
    assert code == 130
    assert err == "autopatch: interrupted\n"
    assert not (tmp_path / "demo").exists()


def test_notes_of_the_package_are_printed(autopatch, search_arguments, tmp_path):
    few = ("--cache-gib", "0.0001", "--evaluations", "4")
    code, out, err = autopatch(*search_arguments, *few)
    assert code == 0, err
    assert f"{search_arguments[1]}: 13 good images to fit, 3 good and 3 anomalous to search" in out
    assert "RANDOM" in out
    assert "feature maps at 96 px need" in out
    assert "they are recomputed for each candidate" in out
    assert err == ""
    code, out, _ = autopatch("fit", tmp_path / "run")
    assert code == 0
    assert "picked by the rule robust: robust_rwAP" in out


def test_failed_candidates_are_noted(autopatch, search_arguments, monkeypatch, tmp_path):
    scored = CandidateEvaluator.__call__

    def evaluate(self, architecture):
        if architecture.input.size == 96:
            raise ArithmeticError("no digits")
        return scored(self, architecture)

    monkeypatch.setattr(CandidateEvaluator, "__call__", evaluate)
    code, out, err = autopatch(*search_arguments)
    assert code == 0, err
    assert re.search(r"\d candidates failed, the first: ArithmeticError: no digits", out)

    def fail(self, architecture):
        raise ArithmeticError("no digits")

    monkeypatch.setattr(CandidateEvaluator, "__call__", fail)
    code, _, err = autopatch(*search_arguments[:-1], tmp_path / "other")
    assert code == 1
    assert "candidates failed, the first: ArithmeticError: no digits" in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("no room"), "3 trials in a row ran out of memory, the last: MemoryError: no "),
        (
            RuntimeError("CUDA error: unspecified launch failure"),
            "trial 0: the device failed: RuntimeError: CUDA error: unspecified launch failure",
        ),
    ],
)
def test_a_machine_that_fails_stops_the_search(
    autopatch, search_arguments, monkeypatch, error, message
):
    def fail(self, architecture):
        raise error

    search_arguments += ["--evaluations", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(CandidateEvaluator, "__call__", fail)
        code, _, err = autopatch(*search_arguments)
    assert code == 2
    assert err.startswith(f"autopatch: {message}")
    assert "; resume the search to evaluate " in err
    assert err.count("\n") == 1
    assert autopatch(*search_arguments, "--resume")[0] == 0


def test_python_finds_what_the_command_finds(autopatch, searched, textures, tmp_path):
    run = run_search(
        str(textures),
        str(tmp_path / "python"),
        space="timm:test_efficientnet",
        weights="random",
        shots=1,
        reserve=2,
        evaluations=8,
        population=4,
        cost="total_flops",
        choices={"image_size": (64, 96), "patch_size": (1, 3), "bank_size": (50, 100)},
    )
    same = Run.open(searched.run)
    assert results(run) == results(same)
    assert run.split == same.split
    assert run.data_digest == same.data_digest

    assert autopatch("fit", same.path)[0] == 0
    fitted = run.fit()
    test = [sample.image for sample in run.split.test]
    by_command = Detector.load(same.detector_path).predict(test)
    assert torch.equal(by_command.anomaly_map, fitted.predict(test).anomaly_map)
    assert by_command.threshold == fitted.threshold.value


def test_data_and_weights_that_were_moved(autopatch, search_arguments, tmp_path):
    data = draw_textures(tmp_path / "data", **FEW)
    supernet = load_supernet("timm:test_efficientnet", "random")
    network = supernet.get_active_subnet(supernet.largest()).network
    metadata = {"timm_model": "test_efficientnet", "timm_kwargs": "{}"}
    weights = tmp_path / "weights.safetensors"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, weights, metadata=metadata | dict.fromkeys(("mean", "std"), "[0.5,0.5,0.5]"))
    search_arguments[1], search_arguments[5] = data, weights
    assert search_arguments[4] == "--weights"
    assert autopatch(*search_arguments, "--evaluations", "4")[0] == 0
    run = tmp_path / "run"
    images = data.rename(tmp_path / "images")
    for command in (["fit", run], ["evaluate", run], ["report", run]):
        assert Run.open(run).pick.evaluation is not None
        code, _, err = autopatch(*command)
        assert code == 2
        assert err.count("\n") == 1
        assert f"{data}: the data set of {run} is missing; give --data" in err
        code, _, err = autopatch(*command, "--data", images)
        assert code == 0, err
    moved = weights.rename(tmp_path / "moved.safetensors")
    arguments = ["fit", run, "--data", images, "--out", tmp_path / "again.safetensors"]
    code, _, err = autopatch(*arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert f"{weights}: the weights of the search are missing; give --weights" in err
    code, _, err = autopatch(*arguments, "--weights", moved)
    assert code == 0, err


def results(run):
    return [
        (trial.genome, trial.evaluation.values, trial.evaluation.metrics)
        for trial in run.trials
        if trial.evaluation
    ]


def test_the_whole_way(autopatch, searched, textures, tmp_path):
    run = searched.run
    assert "RANDOM" in searched.out
    trials = load_trials(run / "study.db")
    assert len(trials) == 8
    assert all(trial.evaluation for trial in trials)

    code, out, err = autopatch("fit", run)
    assert code == 0, err
    assert "RANDOM" in out
    assert "false-alarm rate" in out
    detector = Detector.load(run / "detector.safetensors")
    best = max(t.evaluation.metrics["robust_rwAP"] for t in trials)
    assert detector.architecture in [
        t.architecture for t in trials if t.evaluation.metrics["robust_rwAP"] == best
    ]

    code, _, err = autopatch("fit", run)
    assert code == 2
    assert "exists" in err

    code, out, err = autopatch("evaluate", run)
    assert code == 0, err
    assert "PatchCore" in out
    assert "best of the front (chosen with the test labels): trial" in out

    code, _, err = autopatch("fit", run, "--trial", 0, "--patchcore", "--out", tmp_path / "x")
    assert code == 2
    assert err == (
        "autopatch: give one of --trial, --patchcore, --architecture and --rule, not several\n"
    )

    other = tmp_path / "setting.safetensors"
    assert autopatch("fit", run, "--patchcore", "--out", other)[0] == 0
    code, _, err = autopatch("report", run, "--detector", other)
    assert code == 0, err
    assert "belong to another detector" in (run / "report" / "report.html").read_text()

    code, _, err = autopatch("report", run)
    assert code == 0, err
    page = (run / "report" / "report.html").read_text()
    assert "belong to another detector" not in page
    assert "RANDOM" in page
    assert "PatchCore baseline" in page
    assert (run / "report" / "pareto.png").is_file()
    with (run / "report" / "front.csv").open() as file:
        assert all("RANDOM" in row["weights"] for row in csv.DictReader(file))
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
        assert "RANDOM" in row["weights"]
        assert row["verdict"] == (
            "anomalous" if float(row["score"]) > float(row["threshold"]) else "good"
        )
    anomaly_map = np.load(out_folder / "maps" / "hole" / "000.npy")
    assert anomaly_map.shape == (224, 224)
    score = next(row["score"] for row in rows if row["image"].endswith("hole/000.png"))
    assert anomaly_map.max() == pytest.approx(float(score), rel=1e-6)
    with Image.open(out_folder / "overlays" / "hole" / "000.png") as picture:
        assert picture.size == (256, 256)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_search_resumes_to_the_same_front(autopatch, searched, search_arguments, tmp_path):
    whole = results(Run.open(searched.run))
    shutil.rmtree(searched.run)
    child = os.fork()
    if child == 0:
        scored = CandidateEvaluator.__call__
        calls = []

        def killed(self, architecture):
            calls.append(architecture)
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return scored(self, architecture)

        try:
            CandidateEvaluator.__call__ = killed
            autopatch(*search_arguments)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    trials = load_trials(tmp_path / "run" / "study.db")
    assert [trial.evaluation is not None for trial in trials] == [True] * 3 + [False]

    code, _, err = autopatch(*search_arguments)
    assert code == 2
    assert "--resume" in err

    code, _, err = autopatch(*search_arguments, "--resume")
    assert code == 0, err

    assert results(Run.open(tmp_path / "run")) == whole


@pytest.mark.usefixtures("searched")
def test_resume_with_another_seed(autopatch, search_arguments):
    code, _, err = autopatch(*search_arguments, "--seed", "1", "--resume")
    assert code == 2
    assert err.count("\n") == 1
    assert "the search was started with --seed = 0, cannot resume it with 1" in err
