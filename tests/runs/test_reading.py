"""How the files of a data set are read: decided once, and the same in every step of a run."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import EVALUATION_SIZE, Reading, load_masks
from autopatch.errors import InputError
from autopatch.runs import Run, SplitRequest, SupernetSource, load_inputs, run_search
from autopatch.runs.predictions import write_predictions


@pytest.fixture(scope="module")
def deep(origin, tmp_path_factory):
    """The search of `origin` on 12-bit images whose high 8 bits are the original pixels."""
    folder = tmp_path_factory.mktemp("deep")
    shutil.copytree(origin / "data", folder / "data")
    for path in folder.glob("data/t*/**/*.png"):
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(np.rint(grey / 255 * 4095).astype(np.uint16)).save(path)
    return folder


NAME = "timm:test_efficientnet"
SETTINGS = {
    "shots": 1,
    "reserve": 2,
    "seed": 4,
    "evaluations": 2,
    "population": 2,
    "objectives": ("total_flops", "rwAP"),
}
CHOICES = {"image_size": (64,), "patch_size": (1, 3), "bank_size": (40,)}


def search(origin, data, out, **options):
    options = {"choices": CHOICES, **SETTINGS, **options}
    weights = origin / "weights.safetensors"
    return run_search(data, out, space=NAME, weights=weights, **options)


@pytest.fixture(scope="module")
def deep_run(origin, deep):
    return search(origin, deep / "data", deep / "run")


def test_images_of_12_bits_give_what_their_8_bits_give(origin, deep, deep_run, tmp_path):
    assert deep_run.reading == Reading(bit_depth=12)
    shutil.copytree(deep / "data", tmp_path / "data")
    for path in tmp_path.glob("data/t*/**/*.png"):
        values = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(((values * 255 + 2047) // 4095).astype(np.uint8)).save(path)
    shallow = search(origin, tmp_path / "data", tmp_path / "run")
    assert shallow.reading == Reading(bit_depth=8)
    assert [t.evaluation.values for t in shallow.trials] == [
        t.evaluation.values for t in deep_run.trials
    ]
    images = [sample.image for sample in deep_run.split.test]
    detectors = [
        run.fit(out=tmp_path / f"{run.reading.bit_depth}.safetensors")
        for run in (shallow, deep_run)
    ]
    assert [each.reading for each in detectors] == [shallow.reading, deep_run.reading]
    same = [sample.image for sample in shallow.split.test]
    assert torch.equal(
        detectors[0].predict(same).anomaly_map, detectors[1].predict(images).anomaly_map
    )


@pytest.fixture
def deep_detector(deep_run, tmp_path):
    return deep_run.fit(out=tmp_path / "detector.safetensors")


def test_a_detector_of_another_reading_is_refused(deep_run, deep_detector):
    deep_run.require_own(deep_detector)
    deep_detector.reading = replace(deep_detector.reading, bit_depth=16)
    with pytest.raises(
        InputError, match=r"with `bit_depth` 16 and `exif` apply, expected `bit_depth` 12"
    ):
        deep_run.evaluate(deep_detector)


def test_a_resumed_search_has_the_same_reading(origin, deep, deep_run):
    again = search(origin, deep / "data", deep / "run", resume=True)
    assert again.reading == deep_run.reading
    with pytest.raises(InputError, match="started with `bit_depth` = 12, cannot resume it with 16"):
        search(origin, deep / "data", deep / "run", resume=True, bit_depth=16)
    with pytest.raises(InputError, match="started with `mask_threshold` = null, cannot resume"):
        search(origin, deep / "data", deep / "run", resume=True, mask_threshold=9)


def test_predictions_name_bright_images_once(deep, deep_detector, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("autopatch.runs.predictions._IMAGES_AT_A_TIME", 2)
    images = []
    for number in range(5):
        images.append(tmp_path / f"{number}.png")
        value = 9000 if number < 4 else 4000
        Image.fromarray(np.full((64, 64), value, np.uint16)).save(images[-1])
    images.append(tmp_path / "5.png")
    Image.new("L", (64, 64), round(4000 / 4095 * 255)).save(images[-1])
    write_predictions(deep_detector, images, tmp_path / "out")
    (warning,) = caplog.messages
    assert warning.startswith("4 images are brighter than the bit depth allows (values up to 9000")
    one, other = (np.asarray(Image.open(tmp_path / f"out/overlays/{n}.png")) for n in (4, 5))
    assert (one == other).all()


def test_what_is_odd_about_the_data_is_said_by_search_and_fit(origin, tmp_path, caplog):
    data = shutil.copytree(origin / "data", tmp_path / "data")
    for path in (data / "ground_truth/hole").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path).convert("L"))).save(path)
    for path in (data / "train/good").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 64 * 64).save(path)
    caplog.set_level(logging.INFO)
    run = search(origin, data, tmp_path / "run", evaluations=1)
    said = [line.strip() for line in caplog.messages]
    assert sum("gray levels" in line for line in said) == 1
    (areas,) = [line for line in said if line.startswith("anomalous area, median and range: ")]
    assert "hole 9" in areas
    (inverted,) = [line for line in said if "inverted" in line]
    assert "of the type 'hole'" in inverted
    assert inverted in run.split.notes
    assert inverted in Run.open(tmp_path / "run").split.notes
    caplog.clear()
    run.fit()
    assert not any("gray levels" in line for line in caplog.messages)  # said by the search


def inputs_of(origin, **options):
    source = SupernetSource.find(NAME, origin / "weights.safetensors")
    return load_inputs(origin / "data", SplitRequest(reserve=2, **options), source)


def test_the_published_protocol_keeps_its_rule_for_masks(origin):
    assert inputs_of(origin).findings.reading.mask_resize == "area"
    inputs = inputs_of(origin, protocol="autopatch")
    assert inputs.findings.reading == Reading(bit_depth=8, mask_resize="any")
    (sample, *_) = inputs.split.validation
    resized = Image.open(sample.mask).convert("L").resize((EVALUATION_SIZE,) * 2, 2)
    masks = load_masks(sample, reading=inputs.findings.reading)
    assert (masks[0].numpy() == (np.asarray(resized) > 0)).all()


def test_the_published_protocol_is_in_the_record(origin, tmp_path):
    run = search(origin, origin / "data", tmp_path / "run", protocol="autopatch", evaluations=1)
    assert run.reading.mask_resize == run.split.mask_resize == "any"
    assert Run.open(tmp_path / "run").reading == run.reading


def test_a_reading_that_cannot_be_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="`bit_depth` is 11, expected one of 8, 10"):
        run_search(tmp_path / "absent", tmp_path / "run", bit_depth=11)
    with pytest.raises(InputError, match="`exif` is 'x'"):
        run_search(tmp_path / "absent", tmp_path / "run", exif="x")
