"""A finished search: its contents, and detectors fitted from it."""

import html
import json
import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image

from autopatch.detector import Detector, patchcore_architecture
from autopatch.errors import InputError
from autopatch.runs import Run, SplitRequest, load_inputs, run_search
from autopatch.runs.initial import initial_architectures
from autopatch.search import compose_space, load_study


def test_trials_by_number(finished):
    assert finished.trial(2).number == 2
    with pytest.raises(InputError, match=r"no trial 9, expected 0 to 3$"):
        finished.trial(9)
    with pytest.raises(InputError, match=r"no trial 0, the search has none yet$"):
        replace(finished, trials=()).trial(0)
    unfinished = replace(finished.trials[0], evaluation=None, reason="interrupted", counts=False)
    with pytest.raises(InputError, match=r"trial 0 has no result: interrupted$"):
        replace(finished, trials=(unfinished,)).trial(0)


@pytest.mark.parametrize("value", ["x", float("inf"), None])
def test_a_damaged_setting(finished, monkeypatch, value):
    stored = load_study(finished.path / "study.db")
    damaged = replace(stored, settings=stored.settings | {"evaluations": value})
    monkeypatch.setattr("autopatch.runs.record.load_study", lambda _: damaged)
    with pytest.raises(InputError, match=r"study\.db: a setting is missing or damaged"):
        Run.open(finished.path)


def test_a_last_trial_without_memory_is_a_failed_one(finished):
    *others, last = finished.trials
    last = replace(last, evaluation=None, reason="MemoryError: no room", failure="memory")
    run = replace(finished, trials=(*others, replace(last, counts=False)))
    assert (run.front.evaluated, run.front.failed) == (4, 1)
    page = run.report().read_text()
    assert "4 of 4 architectures were evaluated, of which 1 failed" in page
    assert "MemoryError: no room" in page


def test_the_patchcore_setting_is_evaluated_first(finished):
    fit = finished.split.fit
    setting = patchcore_architecture(finished.supernet, images=len(fit))
    # Levels of stride 8 and 16 at 224: 28 x 28 patches an image, a tenth of which are kept.
    assert setting.backbone.levels == (2, 3)
    assert setting.head.bank_size == round(len(fit) * 28 * 28 / 10)
    first = finished.trials[0].architecture
    assert first == replace(setting, head=replace(setting.head, bank_size=80, defects=0.5))
    rwap = finished.pick.evaluation.metrics["rwAP"]
    assert rwap >= finished.trials[0].evaluation.metrics["rwAP"]


def test_what_is_evaluated_first(finished):
    choices = {"image_size": (64,), "patch_size": (1, 3), "bank_size": (40,)}
    small = compose_space(finished.supernet, choices=choices)
    lacking = compose_space(finished.supernet, choices=choices | {"patch_size": (1,)})
    request = SplitRequest(shots=1, reserve=2, seed=4)
    inputs = load_inputs(finished.data, request, finished.source)
    first = initial_architectures(small, inputs)
    assert [a.backbone.levels for a in first] == [(2, 3), (1, 2), (1, 2, 3)]
    assert {(a.input.size, a.head.patch_sizes[0], a.head.bank_size) for a in first} == {(64, 3, 40)}
    assert initial_architectures(lacking, inputs) == ()
    one = {
        "defects": (0.3, 1.0),
        "distance": ("cosine",),
        "level_weight": (2.0,),
        "neighbors": (3,),
    }
    fixed = compose_space(finished.supernet, choices=choices | one)
    heads = [a.head for a in initial_architectures(fixed, inputs)]
    assert [head.steps["level_weight"] for head in heads] == [(2.0, 2.0), (2.0, 2.0), (2.0,) * 3]
    assert {(h.defects, h.neighbors, h.steps["distance"]) for h in heads} == {(0.3, 3, "cosine")}
    sizes = compose_space(finished.supernet, choices={"image_size": (160, 224, 288, 192)})
    first = initial_architectures(sizes, inputs)
    assert [a.input.size for a in first[::3]] == [224, 192, 160, 288]
    allowed = replace(sizes, allows=lambda a: a.input.size < 224)
    assert [a.input.size for a in initial_architectures(allowed, inputs)[::3]] == [192, 160]


def test_front_and_pick(finished):
    values = [t.evaluation.values for t in finished.front.trials]
    assert sorted(values, key=lambda v: v["total_flops"]) == values
    assert sorted(values, key=lambda v: v["rwAP"]) == values
    assert finished.pick == finished.front.pick == finished.front.trials[-1]
    assert finished.front.evaluated == 4
    with pytest.raises(InputError, match="no candidate has been evaluated yet"):
        replace(finished, trials=()).front  # noqa: B018


def test_fit_saves_the_pick(finished, caplog):
    with caplog.at_level(logging.INFO, logger="autopatch"):
        detector = finished.fit()
    assert detector.architecture == finished.pick.architecture
    assert f"trial {finished.pick.number}, picked by the rule robust: rwAP" in caplog.text
    loaded = Detector.load(finished.detector_path)
    assert loaded.threshold == detector.threshold
    assert loaded.data_digest == finished.data_digest
    with pytest.raises(InputError, match="exists; remove it or give another `out`"):
        finished.fit()


def test_what_is_fitted(finished, tmp_path):
    fitted = []

    def fit(*architecture, **options):
        out = str(tmp_path / f"{len(fitted)}.safetensors")
        detector = finished.fit(*architecture, out=out, **options)
        fitted.append(detector)
        return detector.architecture

    cheap = finished.front.trials[0]
    assert fit(trial=cheap.number) == cheap.architecture
    assert fit(cheap.architecture) == cheap.architecture
    (tmp_path / "a.json").write_text(json.dumps(cheap.architecture.to_json()))
    assert fit(tmp_path / "a.json") == fit(str(tmp_path / "a.json")) == cheap.architecture
    test = [sample.image for sample in finished.split.test]
    maps = [detector.predict(test).anomaly_map for detector in fitted]
    assert all(torch.equal(m, maps[0]) for m in maps)
    setting = patchcore_architecture(finished.supernet, images=len(finished.good))
    assert fit(patchcore=True) == setting


def test_a_detector_is_fitted_on_all_good_images(finished, tmp_path):
    split = finished.split
    assert set(finished.good) == {*split.fit, *split.holdout}
    assert len(finished.good) == len(set(finished.good)) == 14
    assert not set(finished.good) & {*split.test, *split.validation, *split.reserved_unused}
    architecture = finished.pick.architecture
    head = replace(architecture.head, bank_size=None, defects=None)
    detector = finished.fit_architecture(replace(architecture, head=head))
    images = [sample.image for sample in finished.good]
    assert detector.predict(images).pred_score.max() < 1e-6
    assert detector.calibration_scores.min() > 1e-3
    assert detector.threshold.images == 14
    # The shots are known defects, and the folds are those of the run's seed.
    detector = finished.fit_architecture(architecture)
    assert [image.type for image in detector.known] == [sample.type for sample in split.validation]
    again = replace(finished, seed=finished.seed + 1).fit_architecture(architecture)
    assert torch.equal(again.memory.bank, detector.memory.bank)
    assert not torch.equal(again.calibration_scores, detector.calibration_scores)


def test_images_of_a_group_set_the_threshold_in_one_fold(finished):
    def fit(*groups):
        parts = {
            role: tuple(
                replace(sample, group=groups[i % len(groups)]) for i, sample in enumerate(samples)
            )
            for role, samples in finished.split.roles.items()
            if role in ("fit", "holdout")
        }
        run = replace(finished, split=replace(finished.split, **parts))
        return run.fit_architecture(finished.trial(0).architecture)

    assert not torch.equal(fit(None).calibration_scores, fit("a", "b").calibration_scores)
    with pytest.raises(InputError, match="`images` has 14, all related by their groups"):
        fit("a")


def test_calibration_images_of_a_split_set_the_threshold(finished):
    split = replace(finished.split, calibration=finished.split.holdout)
    run = replace(finished, split=split)
    assert run.good == split.fit
    head = replace(finished.pick.architecture.head, bank_size=None, defects=None)
    detector = run.fit_architecture(replace(finished.pick.architecture, head=head))
    assert detector.threshold.images == len(split.calibration)
    scores = detector.predict([sample.image for sample in split.calibration]).pred_score
    torch.testing.assert_close(detector.calibration_scores, scores, rtol=1e-5, atol=0)
    assert scores.min() > 1e-3
    fitted = detector.predict([sample.image for sample in split.fit]).pred_score
    assert fitted.max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "a.json", "trial": 0},
        {"architecture": "a.json", "patchcore": True},
        {"trial": 0, "patchcore": True},
    ],
)
def test_one_thing_is_fitted(finished, options):
    with pytest.raises(
        InputError,
        match=r"^give one of `trial`, `patchcore`, `architecture` and `rule`, not several$",
    ):
        finished.fit(**options)
    assert not finished.detector_path.exists()


def test_runs_are_told_apart_and_told_in_a_line(finished):
    again = Run.open(finished.path)
    assert again != finished
    assert len({again, finished}) == 2
    assert repr(finished) == f"Run({str(finished.path)!r}, 4 trials)"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (None, "a.json: cannot be read: No such file or directory$"),
        ("{", "not readable as JSON"),
        ("[1]", "expected a JSON object"),
        ('{"supernet": "timm:x", "image_size": 64}', "earlier version of autopatch"),
    ],
)
def test_an_architecture_file_that_is_none(finished, tmp_path, text, fragment):
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=fragment) as error:
        finished.fit(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not finished.detector_path.exists()


@pytest.mark.parametrize("rate", [0, 1, -0.1])
def test_false_alarm_rate_out_of_range(finished, rate):
    with pytest.raises(InputError, match=r"^`false_alarm_rate` is"):
        finished.fit(false_alarm_rate=rate)


def test_no_detector_to_evaluate(finished):
    nowhere = finished.path / "none.safetensors"
    for use, file in (
        (finished.evaluate, finished.detector_path),
        (lambda: finished.evaluate(nowhere), nowhere),
        (lambda: finished.report(str(nowhere)), nowhere),
    ):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value).startswith(f"{file}: no such file; fit a detector first")
    assert "no detector has been fitted" in finished.report().read_text()
    with pytest.raises(InputError, match="`device` is 'gpu'"):
        finished.report(device="gpu")


def hole(data, kind, number):
    return data / kind / "hole" / f"{number:03d}{'_mask' if kind == 'ground_truth' else ''}.png"


def swap(*files):
    """Each file gets the content of the next."""
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, [*contents[1:], contents[0]], strict=True):
        file.write_bytes(content)


CHANGES = {
    "2 masks were changed: ground_truth/hole/000_mask.png, ground_truth/hole/001_mask.png": (
        lambda data: swap(hole(data, "ground_truth", 0), hole(data, "ground_truth", 1))
    ),
    "2 images were changed: test/hole/000.png, test/hole/002.png": (
        lambda data: swap(hole(data, "test", 0), hole(data, "test", 2))
    ),
    "1 image was changed: train/good/003.png": (
        lambda data: Image.new("RGB", (64, 64)).save(data / "train" / "good" / "003.png")
    ),
    "1 image is missing: train/good/005.png": (
        lambda data: (data / "train" / "good" / "005.png").unlink()
    ),
    "1 mask is missing: ground_truth/hole/001_mask.png": (
        lambda data: hole(data, "ground_truth", 1).unlink()
    ),
    "ground_truth/hole/003_mask.png": (  # renamed
        lambda data: hole(data, "ground_truth", 3).rename(data / "ground_truth/hole/003.png")
    ),
}


@pytest.mark.parametrize("words", CHANGES)
def test_data_that_changed_since_the_search(finished, detector_file, settings, words):
    CHANGES[words](finished.data)
    opened = Run.open(finished.path)
    assert opened.front.trials == finished.front.trials
    said = []
    for use in (
        opened.require_same_data,
        opened.fit,
        lambda: opened.evaluate(detector_file),
        opened.report,
    ):
        with pytest.raises(InputError) as error:
            use()
        said.append(str(error.value))
    assert len(set(said)) == 1
    assert said[0].startswith(f"{finished.data}: ")
    if words.startswith("ground_truth"):
        words = f"1 mask is missing: {words}"
    assert f": {words}, since the search of {finished.path}" in said[0]
    assert "\n" not in said[0]
    assert opened.data_digest[:8] not in said[0]
    files = {"study.db", "split.json", "manifest.json", ".lock"}
    assert {path.name for path in finished.path.iterdir()} <= files


@pytest.mark.parametrize("words", CHANGES)
def test_data_that_changed_are_not_searched_again(finished, settings, words):
    CHANGES[words](finished.data)
    expected = {
        "1 mask is missing": "no mask",  # the folder is refused as it is
        "ground_truth/hole": f"1 mask was renamed: {words}",
        "1 image is missing": words,
    }.get(words.partition(":")[0].rpartition("/")[0] or words.partition(":")[0], words)
    with pytest.raises(InputError) as error:
        run_search(out=finished.path, resume=True, **settings | {"evaluations": 6})
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert finished.data_digest[:8] not in str(error.value)
    assert Run.open(finished.path).evaluations == 4


def test_commands_in_messages_are_quoted_for_the_shell(finished):
    path = finished.path.rename(finished.path.with_name("my run"))
    run = Run.open(path)
    with pytest.raises(InputError) as error:
        run.evaluate()
    assert str(error.value).endswith(f"fit a detector first: autopatch fit '{path}'")
    page = html.unescape(run.report().read_text())
    assert f"autopatch fit '{path}'" in page
    assert f"autopatch evaluate '{path}'" in page


def test_a_new_group_is_told(finished, settings):
    with pytest.raises(InputError, match=r"the group of \d+ images was changed"):
        run_search(out=finished.path, resume=True, group_regex=r"^(.*)$", **settings)


def test_all_trials_as_a_table(finished):
    pytest.importorskip("pandas")
    table = finished.to_dataframe()
    assert list(table["trial"]) == [0, 1, 2, 3]
    assert list(table["trial"][table["on_front"]]) == sorted(
        t.number for t in finished.front.trials
    )
    assert list(table["trial"][table["is_pick"]]) == [finished.pick.number]
    assert table["reason"].isna().all()
    for trial, (_, row) in zip(finished.trials, table.iterrows(), strict=True):
        assert row["values.total_flops"] == trial.evaluation.values["total_flops"]
        assert row["values.rwAP"] == row["metrics.rwAP"] == trial.evaluation.metrics["rwAP"]
        assert row["timings.bank"] == trial.evaluation.timings["bank"]
        assert row["params.image_size"] == trial.architecture.input.size
        assert row["params.bank_size"] == trial.architecture.head.bank_size


def test_failed_trials_are_in_the_table(finished):
    pytest.importorskip("pandas")
    first, *others = finished.trials
    failed = replace(first, evaluation=None, reason="MemoryError")
    table = replace(finished, trials=(failed, *others)).to_dataframe()
    assert table["reason"][0] == "MemoryError"
    assert table["values.rwAP"].isna().tolist() == [True, False, False, False]
    assert not table["on_front"][0]
    none = replace(finished, trials=(failed,)).to_dataframe()
    assert not none["is_pick"].any()
    assert len(replace(finished, trials=()).to_dataframe()) == 0
