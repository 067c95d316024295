"""Detectors of a run on its test set."""

import csv
import html
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from autopatch.data import draw_textures, load_masks
from autopatch.detector import Detector, score_maps
from autopatch.errors import InputError
from autopatch.runs import Run, TestResults, report, run_search, write_predictions
from autopatch.runs.advice import advise
from autopatch.runs.results import evaluate_run
from autopatch.search import OBJECTIVES, Objective


def empty_results(run, data_digest=None):
    return TestResults(
        "weights",
        run.pick.architecture,
        run.data_digest if data_digest is None else data_digest,
        run.objectives,
        (),
    )


def test_results(finished):
    detector = finished.fit()
    assert TestResults.load(finished.path) is None
    found = finished.evaluate()
    kinds = [row.kind for row in found.rows]
    assert kinds == ["fitted", "patchcore", *["front"] * len(finished.front.trials)]
    assert found.rows[0].values["total_flops"] == detector.total_flops
    assert found.rows[0].values["rwAP"] == found.rows[0].metrics["rwAP"]
    assert found.objectives == finished.objectives
    assert found.best_of_front.metrics["rwAP"] == max(r.metrics["rwAP"] for r in found.front)
    assert found.belongs_to(detector)
    assert [row.milliseconds is None for row in found.rows] == [k == "front" for k in kinds]
    assert [row.verdicts is None for row in found.rows] == [k == "front" for k in kinds]
    costs = [row.values["total_flops"] for row in found.front]
    assert sorted(costs) == costs

    # The front is fitted on the images of the search: the pick as a detector on these images.
    pick = next(row for row in found.front if row.trial == finished.pick.number)
    split, test = finished.split, finished.split.test
    shown = Detector.fit(
        [sample.image for sample in split.fit],
        calibration=[sample.image for sample in split.holdout],
        supernet=finished.supernet,
        architecture=finished.pick.architecture,
        defects=split.validation if finished.pick.architecture.head.defects else (),
        reading=finished.reading,
    )
    maps = shown.predict([sample.image for sample in test]).anomaly_map
    metrics = score_maps(maps, load_masks(test, 224, finished.reading), [s.type for s in test])
    assert pick.metrics | metrics == pytest.approx(pick.metrics, rel=1e-5)
    assert pick.values["total_flops"] == shown.total_flops

    # The mistakes are those of the fitted detector at its threshold.
    verdicts = found.rows[0].verdicts
    assert verdicts.threshold == detector.threshold
    called = detector.predict([sample.image for sample in test]).pred_label.tolist()
    assert verdicts.false_alarms == sum(
        c and not sample.label for sample, c in zip(test, called, strict=True)
    )
    assert sum(verdicts.missed.values()) == sum(
        sample.label and not c for sample, c in zip(test, called, strict=True)
    )
    assert verdicts.anomalous == dict.fromkeys(("hole", "scratch", "stain"), 2)

    assert TestResults.load(finished.path) == found
    page = finished.report().read_text()
    assert found.rows[0].label in page
    assert verdicts.sentences()[0] in page
    assert advise(finished).trust in html.unescape(page)
    assert finished.report_path.is_file()


def test_results_of_a_detector_with_known_defects(finished):
    architecture = finished.pick.architecture
    architecture = replace(architecture, head=replace(architecture.head, defects=0.5))
    detector = finished.fit(architecture)
    shots = finished.split.validation
    assert [image.type for image in detector.known] == [shot.type for shot in shots]
    found = finished.evaluate()
    assert TestResults.load(finished.path) == found
    assert [row.type for row in found.types] == sorted({shot.type for shot in shots})
    assert [row.known for row in found.types] == [1, 1, 1]
    good = [sample for sample in finished.split.test if not sample.label]
    for row in found.types:
        scored = [*good, *(s for s in finished.split.test if s.type == row.type)]
        masks = load_masks(scored, 224, finished.reading)
        without = Detector.load(finished.detector_path)
        expected = []
        for names in ([], [i.name for i in without.known if i.type == row.type], "all"):
            without.update(remove=[i.name for i in without.known] if names == "all" else names)
            maps = without.predict([s.image for s in scored]).anomaly_map
            expected.append(score_maps(maps, masks, [s.type for s in scored])["rwAP"])
        assert [row.seen, row.unseen, row.without] == pytest.approx(expected)
    page = finished.report().read_text()
    assert "The detector knows 3 defects (1 hole, 1 scratch, 1 stain)." in page
    assert "without this type" in page
    # The results are not those of a detector that knows other images.
    detector.update(remove=[detector.known[0].name])
    assert not found.belongs_to(detector)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda d: {}, "another version of autopatch; run evaluate again"),
        (lambda d: d | {"version": 5}, "another version of autopatch; run evaluate again"),
        (lambda d: d | {"objectives": [{"name": "rwAP"}]}, "damaged"),
        (lambda d: {k: v for k, v in d.items() if k != "rows"}, "damaged"),
        (lambda d: d | {"rows": [{"kind": "front"}]}, "damaged"),
        (lambda d: d | {"rows": None}, "damaged"),
        (lambda d: d | {"rows": [d["rows"][0] | {"verdicts": {"good": 1}}]}, "damaged"),
        (lambda d: d | {"fitted": {"supernet": "timm:x"}}, "damaged"),
    ],
)
def test_results_that_cannot_be_read(finished, change, fragment):
    row = {"kind": "front", "label": "a", "trial": 0, "values": {}, "metrics": {}, "verdicts": None}
    found = empty_results(finished)
    file = found.save(finished.path)
    assert TestResults.load(finished.path) == found
    document = json.loads(file.read_text()) | {"rows": [row | {"milliseconds": None}]}
    file.write_text(json.dumps(change(document)))
    for use in (lambda: TestResults.load(finished.path), finished.report):
        with pytest.raises(InputError, match=fragment) as error:
            use()
        assert str(error.value).startswith(f"{file}: ")
        assert "\n" not in str(error.value)


def test_a_detector_of_another_split_is_not_measured(finished, settings, tmp_path):
    # The same images and the same architecture, but other roles.
    other = run_search(out=tmp_path / "run", **settings | {"seed": 5, "evaluations": 1})
    detector = other.fit(finished.pick.architecture)
    said = []
    for use in (
        lambda: finished.evaluate(other.detector_path),
        lambda: finished.evaluate(detector),
        lambda: finished.report(other.detector_path),
        lambda: finished.report(detector),
        lambda: evaluate_run(finished, detector, cache_bytes=1 << 30),
    ):
        with pytest.raises(InputError, match="fitted on other images") as error:
            use()
        said.append(str(error.value))
    assert len(set(said)) == 1
    shutil.copy(other.detector_path, finished.detector_path)
    with pytest.raises(InputError, match="fitted on other images"):
        finished.report()
    assert not finished.report_path.exists()
    assert not finished.results_path.exists()


def test_a_detector_with_other_weights_is_not_measured(moved, settings, tmp_path):
    asked = settings | {"evaluations": 1, "choices": {**settings["choices"], "image_size": (64,)}}
    one = run_search(out=moved / "one", **asked)
    # Other weights in a file of the same name, for a search of the same images.
    other_weights = tmp_path / settings["weights"].name
    with safe_open(settings["weights"], framework="pt") as file:
        state = {name: file.get_tensor(name).mul_(2) for name in file.keys()}  # noqa: SIM118
        save_file(state, other_weights, metadata=file.metadata())
    other = run_search(out=moved / "other", **asked | {"weights": other_weights})
    one.fit()
    assert one.data_digest == other.data_digest
    assert one.supernet.provenance == other.supernet.provenance
    with pytest.raises(InputError) as error:
        other.evaluate(one.detector_path)
    assert str(error.value).startswith(f"the detector has other weights than {other.path}: ")
    assert one.weights_sha256[:8] in str(error.value)
    assert other.weights_sha256[:8] in str(error.value)


def test_a_detector_or_its_file(finished, detector_file, measured):
    detector = Detector.load(detector_file)
    by_object = finished.evaluate(detector)
    assert [row.metrics for row in measured.rows] == [row.metrics for row in by_object.rows]
    pages = [finished.report(given).read_text() for given in (detector, str(detector_file))]
    assert pages[0] == pages[1]
    assert detector.threshold.describe()[1:] in pages[0]
    assert not finished.detector_path.exists()


def test_a_detector_of_another_data_set_is_not_measured(finished, settings, tmp_path):
    images = draw_textures(
        tmp_path / "images", seed=9, image_size=64, train=14, test_good=3, per_type=4
    )
    alone = tmp_path / "alone.safetensors"
    Detector.fit(
        images / "train" / "good",
        supernet=finished.supernet,
        architecture=finished.pick.architecture,
    ).save(alone)
    with pytest.raises(InputError, match="may have seen its test set") as error:
        finished.evaluate(alone)
    assert "\n" not in str(error.value)
    assert not finished.results_path.exists()


def test_weights_are_told_apart_by_what_they_hold(finished, moved, tmp_path, detector_file):
    renamed = shutil.copy(moved / "weights.safetensors", tmp_path / "others.safetensors")
    run = Run.open(finished.path, weights=renamed)
    run.require_own(Detector.load(detector_file))


def test_results_of_another_fit_are_left_out_of_the_report(finished, detector_file, measured):
    detector = Detector.load(detector_file)
    assert measured.belongs_to(detector)
    stricter = finished.fit(false_alarm_rate=0.3, out=finished.path / "stricter.safetensors")
    assert stricter.architecture == detector.architecture
    assert not measured.belongs_to(stricter)
    found = replace(measured, fitted=finished.trials[1].architecture)
    assert not found.belongs_to(detector)
    found.save(finished.path)
    shutil.copy(detector_file, finished.detector_path)
    assert "belong to another detector" in finished.report().read_text()


def test_results_of_other_images_are_left_out_of_the_report(finished, detector_file, measured):
    measured.save(finished.path)
    assert "On the test set the pick is" in finished.report().read_text()
    replace(measured, data_digest="0" * 64).save(finished.path)
    for detector in (None, detector_file):
        page = finished.report(detector).read_text()
        assert "left out because they were measured on other images" in page
        assert "On the test set the pick is" not in page


def test_no_value_of_the_test_part_is_shown_as_one_of_validation(finished, measured, monkeypatch):
    measured.save(finished.path)
    reports = []
    monkeypatch.setattr(report, "write_report", lambda folder, content: reports.append(content))
    finished.report()
    (setting,) = [c for c in reports[0].candidates if c.is_patchcore]
    row = measured.rows[1]
    assert setting.values == {"total_flops": row.values["total_flops"]}
    assert setting.test == {**row.metrics, **row.values}
    assert setting.validation == {}


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_a_quality_that_is_no_metric(settings, tmp_path, direction, sign):
    def worth(candidate):
        return 3 + sign * candidate.metrics["AP"]

    quality = Objective("worth", "worth (of a part)", "EUR", 0.5, direction, worth)
    OBJECTIVES.register("worth", quality)
    try:
        names = ["total_flops", "worth"]
        settings["choices"] = settings["choices"] | {"image_size": (64,)}
        settings |= {"evaluations": 3, "population": 3}
        run = run_search(out=tmp_path / "run", **settings | {"objectives": names})
        detector = run.fit()
        found = run.evaluate(str(run.detector_path))
    finally:
        OBJECTIVES.unregister("worth")
    assert found.objectives == (OBJECTIVES["total_flops"], quality)
    assert TestResults.load(run.path) == found
    values = [trial.evaluation.values["worth"] for trial in run.front.trials]
    best = max if sign > 0 else min
    assert run.pick.evaluation.values["worth"] == best(values)
    for row in found.rows:
        assert row.values["worth"] == 3 + sign * row.metrics["AP"]
    oracle = found.best_of_front
    assert oracle.values["worth"] == best(row.values["worth"] for row in found.front)
    page = run.report(detector).read_text()
    assert f"chosen with the test labels), trial {oracle.trial}<" in page
    assert "EUR of worth" in page
    assert page.count("<th>worth EUR</th>") == 2
    with (run.report_path.parent / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_trial = {str(row.trial): row.values["worth"] for row in found.front}
    assert {row["trial"]: float(row["test_worth"]) for row in rows[:-1]} == by_trial
    assert rows[-1]["worth"] == ""
    assert float(rows[-1]["test_worth"]) == found.rows[1].values["worth"]


def test_predictions_are_written(finished, detector_file, tmp_path):
    good = finished.data / "test" / "good"
    detector = Detector.load(detector_file)
    one = write_predictions(str(detector_file), str(good / "000.png"), str(tmp_path / "one"))
    many = write_predictions(detector, [finished.data / "test"], tmp_path / "many")
    assert (one.images, many.images) == (1, 3 + 3 * 4)
    assert one.weights == detector.provenance
    assert one.threshold == detector.threshold.describe()
    assert many.anomalous == int(detector.predict(finished.data / "test").pred_label.sum())
    written = np.load(tmp_path / "many" / "maps" / "good" / "000.npy")
    alone = np.load(tmp_path / "one" / "maps" / "000.npy")
    np.testing.assert_allclose(written, alone, rtol=1e-4, atol=1e-5 * alone.max())
    with Image.open(tmp_path / "one" / "overlays" / "000.png") as picture:
        picture.load()
    with pytest.raises(InputError, match="exists, expected a new folder"):
        write_predictions(detector, good, tmp_path / "one")


def test_images_of_one_name_in_two_folders(finished, detector_file, tmp_path):
    files = [finished.data / "test" / kind / "000.png" for kind in ("good", "hole")]
    write_predictions(detector_file, files, tmp_path / "two")
    for kind in ("good", "hole"):
        assert (tmp_path / "two" / "masks" / kind / "000.png").is_file()


def test_images_that_are_not_there(finished, detector_file, tmp_path):
    for images, fragment in (
        ([tmp_path / "nowhere"], "no such file or folder"),
        ([finished.path / "report"], "no such file or folder"),
        ([finished.path], "no image in this folder"),
    ):
        with pytest.raises(InputError, match=fragment):
            write_predictions(detector_file, images, tmp_path / "out")


def test_a_detector_that_grew_is_measured_again(finished):
    empty_results(finished).save(finished.path)
    assert "because the search has grown since they were measured" in finished.report().read_text()
