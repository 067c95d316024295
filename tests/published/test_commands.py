"""The published method from the command line, on small drawn textures and random features."""

import csv
import json
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from safetensors.torch import save_file

from autopatch.data import draw_textures
from autopatch.detector import Detector
from autopatch.errors import InputError
from autopatch.published import weights as published_weights
from autopatch.published.imported import import_study
from autopatch.published.once_for_all import backbone_cost
from autopatch.published.space import published_space
from autopatch.published.studies import load_published
from autopatch.runs import Run
from autopatch.search import load_settings, load_trials
from autopatch.supernet import load_supernet

DUMP = Path(__file__).with_name("published_study.sql")
FULL, FIXED = "bottle_seed0", "bottle_seed0_fixed"
NARROW = "ofa_mbv3_d234_e346_k357_w1.0"


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """As few images as a search needs, because the published architectures run at 224 px."""
    root = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(root, seed=1, image_size=64, train=8, test_good=2, per_type=3)


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


def results(run):
    found = []
    for trial in load_trials(run / "study.db"):
        cost, _ = trial.evaluation.values.values()
        found.append((trial.genome, cost, trial.evaluation.metrics))
    return found


def cost_of(trial):
    return backbone_cost(trial.architecture.backbone, trial.architecture.input.size)


def test_the_published_search_and_what_follows_it(autopatch, published, tmp_path):
    run = tmp_path / "run"
    code, out, err = autopatch(*published, "--evaluations", "2", "--out", run)
    assert code == 0, err
    assert "RANDOM features: weights drawn" in out
    assert "; RANDOM features" in out  # the table of the front
    assert "published" in out
    assert "the published search has another bank size" in out
    settings = load_settings(run / "study.db")
    assert settings["sampler"] == "tpe"
    assert [each["name"] for each in settings["objectives"]] == ["published_flops", "rwAP"]
    assert settings["initial"] == []
    for trial in load_trials(run / "study.db"):
        assert trial.evaluation.values == {
            "published_flops": cost_of(trial).flops,
            "rwAP": trial.evaluation.metrics["rwAP"],
        }
        assert trial.architecture.input.size == 224
        assert trial.architecture.head.bank_size == 40

    code, out, err = autopatch("fit", run)
    assert code == 0, err
    assert "RANDOM" in out
    assert "no calibration set" in out
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
                assert float(row["published_flops"]) == trial.evaluation.values["published_flops"]


def test_a_published_search_resumes_as_if_it_had_not_ended(autopatch, published, tmp_path):
    published += ["--space", NARROW]
    code, _, err = autopatch(*published, "--evaluations", "2", "--out", tmp_path / "whole")
    assert code == 0, err
    parts = [*published, "--out", tmp_path / "parts"]
    assert autopatch(*parts, "--evaluations", "1")[0] == 0
    code, _, err = autopatch(*parts, "--evaluations", "2", "--resume")
    assert code == 0, err
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


def test_the_default_space_of_the_published_supernets(autopatch, textures, tmp_path):
    run, plain = tmp_path / "run", tmp_path / "plain"
    search = (
        *("search", textures, "--space", NARROW, "--weights", "random", "--reserve", "2"),
        *("--image-sizes", "64", "--bank-sizes", "30,60", "--evaluations", "2"),
        *("--cost", "total_flops", "--fixed", "defects=none"),
    )
    code, out, err = autopatch(*search, "--recalibrate-bn", "--out", run)
    assert code == 0, err
    assert "RANDOM" in out
    assert "batch norm recalibrated on the good images" in out
    code, _, err = autopatch(*search, "--out", plain)
    assert code == 0, err
    for one, other in zip(results(run), results(plain), strict=True):
        assert one[:2] == other[:2]
        assert one[2] != other[2]


def test_listing_a_published_study(autopatch, database):
    before = database.read_bytes()
    code, out, err = autopatch("import-study", database, "--study", FULL)
    assert code == 0, err
    *_, flops, others = out.splitlines()
    assert sum(line.startswith("│ 224 px, w1.") for line in out.splitlines()) == 5
    assert others == "failed or unfinished trials: 1"
    # The values in this database are made up.
    trial = load_published(database, published_space(), studies=[FULL]).trials[2]
    assert "the stored FLOPs of 5 of 5 trials do not follow the published rule" in flops
    assert f"trial 2 of {FULL} has 192,000,000" in flops
    assert flops.endswith(f"the rule gives {cost_of(trial).flops:,}")
    code, out, err = autopatch(
        *("import-study", database, "--fixed", "kernel_size=7", "--fixed", "expand_ratio=6"),
        *("--fixed", "supernet_name=ofa_mbv3_d234_e346_k357_w1.2"),
    )
    assert code == 0, err
    assert out.count(f"{FIXED}: published architectures") == 1
    assert max(map(len, out.splitlines()[:-2])) <= 80
    assert database.read_bytes() == before


def test_stored_flops_are_held_to_the_rule(autopatch, database, tmp_path):
    copy = tmp_path / "studies.db"
    shutil.copy(database, copy)
    connection = sqlite3.connect(copy)
    for trial in load_published(database, published_space(), studies=[FULL]).trials:
        connection.execute(
            "UPDATE trial_values SET value = ? WHERE objective = 0 AND trial_id IN (SELECT "
            "trial_id FROM trials JOIN studies USING (study_id) WHERE study_name = ? AND "
            "number = ?)",
            (cost_of(trial).flops, FULL, trial.number),
        )
    connection.commit()
    connection.close()
    code, out, err = autopatch("import-study", copy, "--study", FULL)
    assert code == 0, err
    assert "all stored FLOPs follow the published rule" in out
    (line,) = [line for line in out.splitlines() if "│     2 │" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    trial = load_published(copy, published_space(), studies=[FULL]).trials[2]
    assert cells[2:4] == ["0.58", f"{cost_of(trial).macs / 1e9:.2f}"]


def test_a_published_ablation_in_a_given_order(autopatch, published, textures, tmp_path):
    names = sorted(path.name for path in (textures / "train" / "good").iterdir())[::-1]
    order = tmp_path / "order.txt"
    order.write_text("\n".join(names))
    run = tmp_path / "run"
    arguments = [
        *published,
        *("--fixed", "supernet_name=ofa_mbv3_d234_e346_k357_w1.2", "--fixed", "kernel_size=7"),
        *("--fixed", "expand_ratio=6", "--fixed", "stage_0_block=none"),
        *("--evaluations", "2", "--out", run),
    ]
    code, out, err = autopatch(*arguments, "--legacy-order", order)
    assert code == 0, err
    assert "published GFLOP" in out
    for trial in load_trials(run / "study.db"):
        backbone = trial.architecture.backbone
        assert backbone.network == "ofa_mbv3_d234_e346_k357_w1.2"
        assert {name: set(values) for name, values in backbone.setting.items()} == {
            "kernel_size": {7},
            "expand_ratio": {6},
        }
        assert backbone.levels[0] > 4
    split = json.loads((run / "split.json").read_text())
    assert [Path(each["path"]).name for each in split["holdout"] + split["fit"]] == names
    code, _, err = autopatch(*arguments, "--resume")
    assert code == 2
    assert "4 images have another role" in err


def test_other_files_beside_the_weights_are_no_matter(autopatch, published, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    first, other = (load_supernet(NARROW, "random", seed=seed)._networks[NARROW] for seed in (5, 6))
    save_file(first.state_dict(), weights / f"{NARROW}.safetensors")
    run = tmp_path / "run"
    arguments = [*published, "--space", NARROW, "--weights", weights, "--out", run]
    code, out, err = autopatch(*arguments, "--evaluations", "1")
    assert code == 0, err
    assert "RANDOM" not in out
    (weights / "README").write_text("where they come from")
    assert autopatch("fit", run)[0] == 0
    code, _, err = autopatch(*arguments, "--evaluations", "2", "--resume")
    assert code == 0, err
    save_file(other.state_dict(), weights / f"{NARROW}.safetensors")
    code, _, err = autopatch("evaluate", run)
    assert code == 2
    assert f"{weights}: not the weights that the search was made with" in err


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
    assert load_settings(run / "study.db")["imported"] == {"study": FULL, "trials": [1, 4]}
    compared = out[out.index(f"{FULL}: rwAP as published and here; RANDOM features") :]
    for trial, number in zip(trials, (1, 4), strict=True):
        here = f"{100 * trial.evaluation.metrics['rwAP']:.1f}"
        rows = [line.strip("│").split("│") for line in compared.splitlines() if line[0] == "│"]
        (row,) = [row for row in rows if row[0].strip() == str(number)]
        assert [cell.strip() for cell in row[2:]] == [str(trial.number), here]
    for trial, number in zip(trials, (1, 4), strict=True):
        values = {
            name: optuna.distributions.json_to_distribution(kind).to_external_repr(value)
            for name, value, kind in connection.execute(query, (FULL, number))
        }
        space = published_space(bank_sizes=(40,))
        assert trial.architecture == space.decode(space.genome(values))
        assert trial.evaluation.values["published_flops"] == cost_of(trial).flops
    connection.close()
    assert autopatch("fit", run)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--space", "timm:mobilenetv2_050"],
            "--space-preset is 'published', expected one of default for timm:mobilenetv2_050",
        ),
        (["--patch-sizes", "1,3"], "choices of --patch-sizes are given"),
        (["--image-sizes", "64"], "choices of --image-sizes are given"),
        (["--space-preset", "paper"], "--space-preset is 'paper'"),
        (["--sampler", "random"], "sampler is 'random'"),
        (["--seed", "4294967296"], "--seed is 4294967296, expected at most 4294967295"),
        (
            ["--fixed", "kernel_size=3", "--fixed", "kernel_size=5"],
            "gives kernel_size twice",
        ),
        (["--fixed", "kernel_size=8"], "--fixed: search space ofa_mbv3: stage_0_kernel_size has"),
        (["--fixed", "kernel_size=²"], "--fixed: search space ofa_mbv3: stage_0_kernel_size has"),
        (["--legacy-order", "no_such_file"], "no_such_file: cannot be read"),
        (["--weights", "pretrained"], "'auto'"),
        (["--weights", "no_such_folder"], "no_such_folder"),
        (["--timm-kwargs", "{}"], "--timm-kwargs is given, but"),
        (
            ["--space", "timm:mobilenetv2_050", "--recalibrate-bn"],
            "--recalibrate-bn is given, but",
        ),
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
    name, checkpoint = next(iter(published_weights.OFFICIAL.items()))
    unreachable = published_weights.OfficialCheckpoint(
        name, "http://127.0.0.1:9/x", checkpoint.git_blob
    )
    monkeypatch.setitem(published_weights.OFFICIAL, name, unreachable)
    code, _, err = autopatch(*published, "--weights", "auto", "--out", tmp_path / "run")
    assert code == 2
    assert "127.0.0.1:9" in err
    assert "give --weights: a folder with " in err
    assert "or 'random' to try" in err
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
        (["--study", FULL, "--fixed", "kernel_size=2"], "stage_0_kernel_size has no choice 2"),
    ],
)
def test_mistakes_of_import_study(autopatch, database, arguments, message):
    code, _, err = autopatch("import-study", database, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_published_study_in_python(database, textures, tmp_path):
    out = tmp_path / "run"
    told = []
    imported = import_study(
        str(database),
        str(textures),
        str(out),
        study=FULL,
        trials=[4, 1],
        bank_size=40,
        weights="random",
        reserve=2,
        progress=lambda step, done, total: told.append(step),
    )
    assert told
    assert [trial.number for trial in imported.published] == [1, 4]
    assert {trial.architecture.head.bank_size for trial in imported.published} == {40}
    pairs = imported.pairs()
    assert [published for published, _ in pairs] == list(imported.published)
    for published, trial in pairs:
        assert trial.architecture == published.architecture
        assert trial.evaluation.values["published_flops"] == published.cost.flops
    run = Run.open(str(out))
    assert run.trials == imported.run.trials
    assert [objective.name for objective in run.objectives] == ["published_flops", "rwAP"]
    with pytest.raises(InputError, match="exists; give `resume=True`"):
        import_study(str(database), str(textures), str(out), study=FULL)
    again = import_study(
        database,
        textures,
        out,
        study=FULL,
        trials=[1, 4],
        bank_size=40,
        weights="random",
        reserve=2,
        resume=True,
    )
    assert again.run.trials == run.trials


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": None}, "holds the studies|it has no supernet_name"),
        ({"trials": [3]}, "no finished trial 3, expected one of 0, 1, 2, 4, 5"),
        ({"study": "other"}, "no study 'other'"),
        ({"shots": 0, "reserve": 1}, "`shots` is 0, so the search has no anomalous images"),
        ({"weights": "no_such_folder"}, "no_such_folder"),
        ({"data": "no_such_data"}, "no_such_data"),
        ({"file": "no_such_file"}, "no_such_file: no such file"),
    ],
)
def test_mistakes_of_a_published_study_in_python(database, textures, tmp_path, arguments, message):
    out = tmp_path / "run"
    given = {"file": database, "data": textures, "study": FULL, "weights": "random"}
    with pytest.raises(InputError, match=message) as caught:
        import_study(**{**given, **arguments}, out=str(out))
    assert "\n" not in str(caught.value)
    assert not out.exists()
