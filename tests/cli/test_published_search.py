"""The published method from the command line, on small drawn textures and random features."""

import csv
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from autopatch.detector import Detector
from autopatch.search import load_settings, load_trials
from autopatch.supernet import official, published_space
from autopatch.supernet.once_for_all import subnet_setting
from autopatch.supernet.published_flops import published_cost

DUMP = Path(__file__).parents[1] / "search" / "published_study.sql"
FULL, FIXED = "bottle_seed0", "bottle_seed0_fixed"


@pytest.fixture
def published(textures):
    return [
        "search",
        textures,
        *("--space", "ofa_mbv3", "--space-preset", "published", "--protocol", "autopatch"),
        *("--sampler", "tpe", "--weights", "random", "--reserve", "2", "--bank-size", "40"),
    ]


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A published study database after `optuna storage upgrade`."""
    path = tmp_path_factory.mktemp("published") / "studies.db"
    connection = sqlite3.connect(path)
    connection.executescript(DUMP.read_text())
    connection.close()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = RDBStorage(f"sqlite:///{path}", skip_compatibility_check=True)
    storage.upgrade()
    storage.remove_session()
    storage.engine.dispose()
    return path


def cost(architecture):
    width = float(architecture.supernet.rpartition("w")[2])
    return published_cost(width, subnet_setting(architecture), architecture.image_size).flops


def results(run):
    return [
        (trial.genome, trial.evaluation.cost, trial.evaluation.metrics)
        for trial in load_trials(run / "study.db")
    ]


def test_the_published_search_and_what_follows_it(autopatch, published, tmp_path):
    run = tmp_path / "run"
    code, out, err = autopatch(*published, "--evaluations", "3", "--out", run)
    assert code == 0, err
    assert "RANDOM features: weights drawn" in out
    assert "; RANDOM features" in out  # the table of the front
    assert "published" in out
    assert "the size of the bank is not as published" in out
    settings = load_settings(run / "study.db")
    assert settings["sampler"] == "tpe"
    assert settings["cost"] == "published_flops"
    assert settings["initial"] == []
    for trial in load_trials(run / "study.db"):
        assert trial.evaluation.cost == cost(trial.architecture)
        assert trial.architecture.image_size == 224
        assert trial.architecture.bank_size == 40

    code, out, err = autopatch("fit", run)
    assert code == 0, err
    assert "RANDOM" in out
    assert "no calibration part" in out
    pick = max(load_trials(run / "study.db"), key=lambda t: t.evaluation.metrics["rwAP"])
    assert Detector.load(run / "detector.safetensors").architecture == pick.architecture
    assert autopatch("evaluate", run)[0] == 0
    assert autopatch("report", run)[0] == 0
    page = (run / "report" / "report.html").read_text()
    assert "published FLOPs (backbone alone)" in page
    assert "RANDOM" in page
    with (run / "report" / "front.csv").open() as file:
        for row in csv.DictReader(file):
            if row["trial"]:
                number = int(row["trial"])
                trial = load_trials(run / "study.db")[number]
                assert int(row["published_flops"]) == trial.evaluation.cost


def test_a_published_search_resumes_as_if_it_had_not_ended(autopatch, published, tmp_path):
    code, _, err = autopatch(*published, "--evaluations", "4", "--out", tmp_path / "whole")
    assert code == 0, err
    parts = [*published, "--out", tmp_path / "parts"]
    assert autopatch(*parts, "--evaluations", "2")[0] == 0
    code, _, err = autopatch(*parts, "--evaluations", "4", "--resume")
    assert code == 0, err
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


def test_the_default_space_of_the_published_supernets(autopatch, textures, tmp_path):
    run = tmp_path / "run"
    code, out, err = autopatch(
        *("search", textures, "--space", "ofa_mbv3_d234_e346_k357_w1.0", "--weights", "random"),
        *("--reserve", "2", "--image-sizes", "64", "--bank-sizes", "30,60"),
        *("--evaluations", "3", "--recalibrate-bn", "--out", run),
    )
    assert code == 0, err
    assert "RANDOM" in out
    assert "batch norm recalibrated on the good images" in out
    plain = tmp_path / "plain"
    code, _, err = autopatch(
        *("search", textures, "--space", "ofa_mbv3_d234_e346_k357_w1.0", "--weights", "random"),
        *("--reserve", "2", "--image-sizes", "64", "--bank-sizes", "30,60"),
        *("--evaluations", "3", "--out", plain),
    )
    assert code == 0, err
    for one, other in zip(results(run), results(plain), strict=True):
        assert one[:2] == other[:2]
        assert one[2] != other[2]


def test_listing_a_published_study(autopatch, database):
    before = database.read_bytes()
    code, out, err = autopatch("import-study", database, "--study", FULL)
    assert code == 0, err
    assert out.count(FULL) == 5
    assert "1 other trials" in out
    code, out, err = autopatch(
        *("import-study", database, "--fixed", "kernel_size=7", "--fixed", "expand_ratio=6"),
        *("--fixed", "supernet_name=ofa_mbv3_d234_e346_k357_w1.2"),
    )
    assert code == 0, err
    assert out.count(FIXED) == 3
    assert database.read_bytes() == before


def test_evaluating_published_architectures(autopatch, database, textures, tmp_path):
    run = tmp_path / "run"
    code, out, err = autopatch(
        *("import-study", database, "--study", FULL, "--trials", "1,4", "--data", textures),
        *("--reserve", "2", "--weights", "random", "--bank-size", "40", "--out", run),
    )
    assert code == 0, err
    assert "RANDOM" in out
    trials = load_trials(run / "study.db")
    # As the database has them, in the space's own decoding.
    connection = sqlite3.connect(database)
    query = (
        "SELECT param_name, param_value, distribution_json FROM trial_params JOIN trials USING "
        "(trial_id) JOIN studies USING (study_id) WHERE study_name = ? AND number = ?"
    )
    assert len(trials) == 2
    for trial, number in zip(trials, (1, 4), strict=True):
        values = {
            name: optuna.distributions.json_to_distribution(kind).to_external_repr(value)
            for name, value, kind in connection.execute(query, (FULL, number))
        }
        space = published_space(bank_sizes=(40,))
        assert trial.architecture == space.decode(space.genome(values))
        assert trial.evaluation.cost == cost(trial.architecture)
    connection.close()
    assert autopatch("fit", run)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "timm:mobilenetv2_050"], "--space-preset published is of ofa_mbv3"),
        (["--patch-sizes", "1,3"], "--patch-sizes is given"),
        (["--image-sizes", "64"], "--image-sizes is given"),
        (["--space-preset", "paper"], "--space-preset is 'paper'"),
        (["--sampler", "random"], "sampler is 'random'"),
        (["--weights", "pretrained"], "'auto'"),
        (["--weights", "no_such_folder"], "no_such_folder"),
        (["--timm-kwargs", "{}"], "no model of timm"),
        (["--space", "timm:mobilenetv2_050", "--recalibrate-bn"], "nothing to recalibrate"),
    ],
)
def test_mistakes_of_a_published_search(autopatch, published, tmp_path, arguments, message):
    code, _, err = autopatch(*published, *arguments, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_downloaded(autopatch, published, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPATCH_CACHE", str(tmp_path / "cache"))
    name, checkpoint = next(iter(official.OFFICIAL.items()))
    unreachable = official.OfficialCheckpoint(name, "http://127.0.0.1:9/x", checkpoint.git_blob)
    monkeypatch.setitem(official.OFFICIAL, name, unreachable)
    code, _, err = autopatch(*published, "--weights", "auto", "--out", tmp_path / "run")
    assert code == 2
    assert "127.0.0.1:9" in err
    assert "--weights random" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "1"], "need --data"),
        (["--study", "other"], "no study 'other'"),
        (["--fixed", "kernel_size"], "--fixed is 'kernel_size'"),
        (["--study", FULL, "--data", "."], "--data needs --out"),
        (["--study", FULL, "--data", ".", "--out", "run", "--trials", "3"], "finished trial 3"),
        (["--study", FIXED], "--fixed"),
    ],
)
def test_mistakes_of_import_study(autopatch, database, arguments, message):
    code, _, err = autopatch("import-study", database, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
