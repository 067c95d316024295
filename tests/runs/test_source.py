"""Where images and weights of a run are, after they were moved or changed."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from autopatch.data import MVTecAD
from autopatch.errors import InputError
from autopatch.runs import Run, SplitRequest, SupernetSource, run_search
from autopatch.runs.source import open_dataset


def predictions(run, out):
    return run.fit(out=out).predict([s.image for s in run.split.test]).anomaly_map


def test_run_and_data_and_weights_are_moved_together(finished, origin, tmp_path):
    before = predictions(Run.open(origin / "run"), tmp_path / "before.safetensors")
    assert str(origin) not in f"{finished.data} {finished.source.weights}"
    assert torch.equal(predictions(finished, tmp_path / "after.safetensors"), before)


def assert_the_record_is_there(run, finished):
    """What needs neither images nor weights."""
    assert run.front.trials == finished.front.trials
    assert run.pick == finished.pick
    assert run.trial(2) == finished.trial(2)
    pytest.importorskip("pandas")
    assert len(run.to_dataframe()) == 4


def test_data_alone_are_moved(finished, moved, tmp_path, detector_file):
    shutil.move(moved / "data", tmp_path / "images")
    lost = Run.open(finished.path)
    assert_the_record_is_there(lost, finished)
    said = f"{moved / 'data'}: the data set of {finished.path} is not there; give --data"
    for use in (lost.fit, lambda: lost.evaluate(detector_file), lost.report):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value) == said
    with pytest.raises(InputError, match=r"nowhere: the data set of .* give --data"):
        Run.open(finished.path, data=tmp_path / "nowhere").fit()
    for place in (tmp_path / "images", str(tmp_path / "images")):
        run = Run.open(finished.path, data=place)
        assert run.data == tmp_path / "images"
        run.require_same_data()
    run.fit(patchcore=True)


def test_weights_alone_are_moved(finished, moved, tmp_path, detector_file, monkeypatch):
    shutil.move(moved / "weights.safetensors", tmp_path / "w.safetensors")
    lost = Run.open(finished.path)
    assert_the_record_is_there(lost, finished)
    weights = moved / "weights.safetensors"
    said = f"{weights}: the weights of the search are not there; give --weights"
    for use in (
        lambda: lost.supernet,
        lost.fit,
        lambda: lost.evaluate(detector_file),
        lambda: lost.report(detector_file),
    ):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value) == said
    monkeypatch.chdir(tmp_path)
    relative = Run.open(finished.path, weights="w.safetensors")
    monkeypatch.chdir(moved)  # before they are looked for
    assert relative.supernet.provenance == "weights of w.safetensors"
    for place in (tmp_path / "w.safetensors", str(tmp_path / "w.safetensors")):
        run = Run.open(finished.path, weights=place)
        assert run.supernet.provenance == "weights of w.safetensors"
    run.fit(patchcore=True)


def test_data_of_another_folder_are_refused(finished, moved, tmp_path):
    (tmp_path / "empty").mkdir()
    run = Run.open(finished.path, data=tmp_path / "empty")
    with pytest.raises(InputError, match=r"images are missing: .*, since the search"):
        run.fit()


def change(weights):
    state = load_file(weights)
    save_file(
        {key: torch.zeros_like(value) for key, value in state.items()},
        weights,
        metadata={
            "timm_model": "test_efficientnet",
            "timm_kwargs": "{}",
            "mean": "[0.5,0.5,0.5]",
            "std": "[0.5,0.5,0.5]",
        },
    )


def test_weights_changed_since_the_search(finished, moved, settings):
    weights = moved / "weights.safetensors"
    change(weights)
    message = "not the weights that the search was made with, or changed since"
    for use in (
        lambda: finished.supernet,
        lambda: finished.fit(patchcore=True),
        lambda: Run.open(finished.path, weights=weights).supernet,
        lambda: run_search(out=finished.path, resume=True, **settings),
        lambda: run_search(out=finished.path, resume=True, **settings | {"weights": "random"}),
    ):
        with pytest.raises(InputError) as error:
            use()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_weights_of_a_search_without_a_file(settings, tmp_path):
    source = SupernetSource.find(settings["space"], "random")
    stored = source.stored_weights(tmp_path)
    assert SupernetSource.restore(source.settings(), stored, tmp_path, None) == source
    assert SupernetSource.restore(source.settings(), stored, tmp_path, "random") == source
    with pytest.raises(InputError, match="the search was made with 'random'"):
        SupernetSource.restore(source.settings(), stored, tmp_path, settings["weights"])


def test_settings_do_not_say_where_the_weights_are(settings, moved):
    source = SupernetSource.find(settings["space"], settings["weights"], mean=[0.1, 0.2, 0.3])
    stored = source.settings()
    assert "weights" not in stored
    assert len(stored["weights_sha256"]) == 64
    back = SupernetSource.restore(stored, source.stored_weights(moved / "r"), moved / "r", None)
    assert back == source


def test_weights_that_are_a_link(settings, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(settings["weights"])
    source = SupernetSource.find(settings["space"], link)
    assert source.weights == str(link)
    assert source.stored_weights(tmp_path / "run") == "../link.safetensors"


def test_a_data_set_has_groups_of_its_own(moved):
    dataset = MVTecAD.scan(moved / "data")
    assert open_dataset(dataset, SplitRequest()) is dataset
    assert open_dataset(str(moved / "data"), SplitRequest()) == dataset
    with pytest.raises(InputError, match="groups of its own"):
        open_dataset(dataset, SplitRequest(group_regex=r"(\d+)"))
