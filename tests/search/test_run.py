import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autopatch.data import MVTecAD, draw_textures, make_split
from autopatch.errors import InputError
from autopatch.search import Plan, search
from autopatch.search.candidates import CandidateEvaluator
from autopatch.search.measurements import (
    Measurements,
    baselines,
    fit_detector,
    measure,
    patchcore_setting,
)
from autopatch.search.run import STUDY, Run, Source, open_search, sha256
from autopatch.supernet import Architecture, load_supernet

NAME = "timm:tf_mobilenetv3_small_075"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(folder, seed=8, image_size=64, train=14, test_good=3, per_type=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    supernet = load_supernet(NAME, "random")
    backbone = supernet.get_active_subnet(
        Architecture(NAME, 64, (1, 2, 3, 4), (1, 1, 1, 1), None)
    ).backbone
    state = {key: value.contiguous() for key, value in backbone.state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    settings = {"timm_model": NAME.removeprefix("timm:"), "timm_kwargs": "{}"}
    save_file(state, file, metadata=settings | {"mean": "[0.5,0.5,0.5]", "std": "[0.5,0.5,0.5]"})
    return file


@pytest.fixture(scope="module")
def plan(root, weights):
    """What `open_search` is given."""
    source = Source(str(root), NAME, str(weights), weights_sha256=sha256([weights]))
    split = make_split(MVTecAD.scan(root), shots=1, reserve=2, seed=4)
    supernet = source.load_supernet(seed=4)
    space = supernet.search_space(image_sizes=(64, 224), patch_sizes=(1, 3), bank_sizes=(40, 80))
    return {
        "split": split,
        "source": source,
        "plan": Plan(
            space,
            evaluations=4,
            seed=4,
            population=4,
            initial=baselines(space, supernet, split),
        ),
    }


@pytest.fixture(scope="module")
def searched(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    split = plan["split"]
    evaluator = CandidateEvaluator(
        plan["source"].load_supernet(seed=4),
        fit=split.fit,
        scored=(*split.holdout, *split.validation),
        seed=4,
    )
    with open_search(folder, resume=False, **plan) as study:
        search(evaluator, study)
    return folder


@pytest.fixture
def finished(searched, tmp_path):
    """A searched run folder of the test's own."""
    return Run.open(shutil.copytree(searched, tmp_path / "run"))


def test_the_folder_gives_back_what_it_was_made_of(finished, plan):
    assert finished.split == plan["split"]
    assert finished.source == plan["source"]
    assert finished.space == plan["plan"].space
    assert len(finished.trials) == 4
    assert finished.trial(2).number == 2
    with pytest.raises(InputError, match="no trial 9"):
        finished.trial(9)


def test_the_patchcore_setting_is_evaluated_first(finished, plan):
    setting = patchcore_setting(finished.load_supernet(), plan["split"])
    # Levels of stride 8 and 16 at 224: 28 x 28 patches an image, a tenth of which are kept.
    assert setting.levels == (2, 3)
    assert setting.bank_size == round(len(plan["split"].fit) * 28 * 28 / 10)
    assert finished.trials[0].architecture == replace(setting, bank_size=80)
    pick = finished.front.pick.evaluation.metrics["rwAP"]
    assert pick >= finished.trials[0].evaluation.metrics["rwAP"]


def test_no_baseline_where_the_space_lacks_it(plan):
    supernet = plan["source"].load_supernet(seed=4)
    small = supernet.search_space(image_sizes=(64,), patch_sizes=(1, 3), bank_sizes=(40,))
    assert baselines(small, supernet, plan["split"]) == ()


def test_one_process_at_a_time(plan, tmp_path):
    with open_search(tmp_path / "run", resume=False, **plan):
        code = (
            "import sys; from pathlib import Path; from autopatch.search import run\n"
            "with run._only_searcher(Path(sys.argv[1])): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True
        )
    assert other.returncode != 0
    assert "another process is searching" in other.stderr
    with open_search(tmp_path / "run", resume=True, **plan):
        pass


def test_a_refused_resume_changes_nothing(finished, plan):
    before = (finished.path / STUDY).read_bytes()
    other = plan | {
        "split": replace(plan["split"], fit=plan["split"].fit[:-1]),
        "plan": replace(plan["plan"], evaluations=9),
    }
    with (
        pytest.raises(InputError, match="images or groups were changed"),
        open_search(finished.path, resume=True, **other),
    ):
        pass
    assert (finished.path / STUDY).read_bytes() == before


def test_resume_after_an_image_changed(finished, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("autopatch.search.run.images_digest", lambda paths: "another")
    with (
        pytest.raises(InputError, match="images_sha256"),
        open_search(finished.path, resume=True, **plan),
    ):
        pass


def test_weights_changed_since_the_search(finished, weights, tmp_path):
    changed = tmp_path / "weights.safetensors"
    state = load_file(weights)
    save_file({key: torch.zeros_like(value) for key, value in state.items()}, changed)
    with pytest.raises(InputError, match="sha256"):
        replace(finished.source, weights=str(changed)).load_supernet(seed=4)


@pytest.mark.parametrize("damage", ["", "{}", '{"protocol": 3}', "[1, 2"])
def test_damaged_split(finished, damage):
    (finished.path / "split.json").write_text(damage)
    with pytest.raises(InputError, match=r"split\.json|split"):
        Run.open(finished.path)


def test_measurements(finished):
    supernet = finished.load_supernet()
    detector = fit_detector(finished, supernet, finished.front.pick.architecture)
    found = measure(finished, detector, cache_bytes=1 << 30)
    kinds = [row.kind for row in found.rows]
    assert kinds == ["fitted", "patchcore", *["front"] * len(finished.front.trials)]
    # The pick fitted as a detector and scored as a candidate are the same thing.
    pick = next(row for row in found.front if row.trial == finished.front.pick.number)
    assert found.rows[0].metrics == pytest.approx(pick.metrics, rel=1e-5)
    assert found.rows[0].cost == pick.cost == detector.total_flops
    assert found.best_of_front.metrics["rwAP"] == max(r.metrics["rwAP"] for r in found.front)
    assert found.belongs_to(detector)

    assert Measurements.load(finished) is None
    found.save(finished)
    assert Measurements.load(finished) == found
    (finished.path / "evaluation.json").write_text("{}")
    with pytest.raises(InputError, match=r"evaluation\.json"):
        Measurements.load(finished)


def test_a_detector_of_another_split_is_not_measured(finished, plan):
    other = replace(finished, split=replace(plan["split"], fit=plan["split"].fit[1:]))
    detector = fit_detector(other, finished.load_supernet(), finished.front.pick.architecture)
    with pytest.raises(InputError, match="fitted on other images"):
        measure(finished, detector, cache_bytes=1 << 30)


def test_not_a_run_folder(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a search"):
        Run.open(Path(tmp_path))
