"""Finding the images and weights of a run after they were moved or changed."""

import shutil
import sqlite3

import pytest
import torch
from safetensors.torch import load_file, save_file

import autopatch
from autopatch.data import MVTecAD
from autopatch.errors import InputError
from autopatch.runs import Run, SplitRequest, SupernetSource, folder, load_inputs, run_search
from autopatch.runs.folder import STUDY
from autopatch.runs.source import open_dataset
from autopatch.search import load_settings


def predictions(run, out):
    return run.fit(out=out).predict([s.image for s in run.split.test]).anomaly_map


def test_run_and_data_and_weights_are_moved_together(finished, origin, tmp_path):
    before = predictions(Run.open(origin / "run"), tmp_path / "before.safetensors")
    assert str(origin) not in f"{finished.data} {finished.source.weights}"
    assert torch.equal(predictions(finished, tmp_path / "after.safetensors"), before)


def assert_the_record_is_there(run, finished):
    """Steps that need neither images nor weights."""
    assert run.front.trials == finished.front.trials
    assert run.pick == finished.pick
    assert run.trial(2) == finished.trial(2)
    pytest.importorskip("pandas")
    assert len(run.to_dataframe()) == 4


def test_data_alone_are_moved(finished, moved, tmp_path, detector_file):
    shutil.move(moved / "data", tmp_path / "images")
    lost = Run.open(finished.path)
    assert_the_record_is_there(lost, finished)
    said = f"{moved / 'data'}: the data set of {finished.path} is missing; give `data`"
    for use in (lost.fit, lambda: lost.evaluate(detector_file), lost.report):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value) == said
    with pytest.raises(InputError, match=r"nowhere: the data set of .* give `data`"):
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
    said = f"{weights}: the weights of the search are missing; give `weights`"
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


def test_weights_that_are_no_file_are_pinned_too(settings, tmp_path):
    asked = settings | {"weights": "random", "evaluations": 1}
    run = run_search(out=tmp_path / "run", **asked)
    assert run.weights_sha256 == run.supernet.weights_sha256
    with sqlite3.connect(run.path / STUDY) as connection:
        connection.execute(
            "UPDATE study_user_attributes SET value_json = ? WHERE key = 'weights_sha256'",
            (f'"{"0" * 64}"',),
        )
    connection.close()
    for use in (
        lambda: Run.open(run.path).supernet,
        lambda: run_search(out=run.path, resume=True, **asked),
    ):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value) == (
            f"`weights` 'random' of {settings['space']}: not the weights that the search was made "
            "with, or changed since"
        )


def test_another_version_of_autopatch(settings, finished, monkeypatch):
    assert load_settings(finished.path / STUDY)["versions"]["autopatch"] == autopatch.__version__
    monkeypatch.setattr(folder, "__version__", "9.9.9")
    with pytest.raises(InputError, match=r"`autopatch` = .*, cannot resume it with .*9\.9\.9"):
        run_search(out=finished.path, resume=True, **settings)


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
    assert len(stored["files_sha256"]) == 64
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


def test_the_same_picture_has_one_role(moved):
    request = SplitRequest(shots=1, reserve=2)
    source = SupernetSource.find("timm:tf_mobilenetv3_small_075", "random")
    data = moved / "data"
    before = load_inputs(data, request, source).split
    copies = {before.fit[0].image: before.test[0].image, before.fit[1].image: before.fit[2].image}
    for original, copy in copies.items():
        shutil.copy(original, copy)
    split = load_inputs(data, request, source).split
    assert sum("the same picture" in note for note in split.notes) == 2
    shown = {sample.image: role for role, part in split.roles.items() for sample in part}
    assert before.fit[0].image not in shown
    assert shown[before.fit[1].image] == shown[before.fit[2].image]


def test_a_published_split_stays_whatever_shows_the_same_picture(moved):
    request = SplitRequest(shots=1, reserve=2, protocol="autopatch")
    source = SupernetSource.find("timm:tf_mobilenetv3_small_075", "random")
    data = moved / "data"
    before = load_inputs(data, request, source).split
    shutil.copy(before.fit[0].image, before.test[0].image)
    shutil.copy(before.fit[1].image, before.test[-1].image)
    split = load_inputs(data, request, source).split
    assert split.roles == before.roles
    assert sum("the same picture" in note for note in split.notes) == 2
    with pytest.raises(InputError, match="shows the same picture as the good image"):
        load_inputs(data, SplitRequest(shots=1, reserve=2), source)
