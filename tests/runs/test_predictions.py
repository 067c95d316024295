"""Predictions written to a folder: what is in it, and images that cannot be read."""

import copy
import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import read_image
from autopatch.detector import Architecture, Detector, Head, Input
from autopatch.runs import UnreadableImage, write_predictions
from autopatch.supernet import Backbone, load_supernet

NAME = "timm:tf_mobilenetv3_small_075"


@pytest.fixture(scope="module")
def detector(textures):
    return Detector.fit(
        textures / "train" / "good",
        supernet=load_supernet(NAME, "random"),
        architecture=Architecture(Input(64), Backbone(NAME, (1,)), Head((3,), 60)),
        evaluation_size=32,
    )


@pytest.fixture
def images(textures, tmp_path):
    return shutil.copytree(textures / "test", tmp_path / "images")


def rows_of(folder):
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_broken_image_costs_its_own_result_only(detector, images, tmp_path):
    files = sorted(images.rglob("*.png"))
    broken, empty = files[3], files[-1]
    broken.write_bytes(broken.read_bytes()[:100])
    empty.write_bytes(b"")
    written = write_predictions(detector, images, tmp_path / "out")
    assert written.images == len(files) - 2
    reasons = {failure.path: failure.reason for failure in written.unreadable}
    assert reasons.keys() == {broken, empty}
    assert "truncated" in reasons[broken]
    assert reasons[empty] == "not an image in a format that can be read"
    assert all(isinstance(failure, UnreadableImage) for failure in written.unreadable)

    rows = {Path(row["image"]): row for row in rows_of(tmp_path / "out")}
    assert rows.keys() == set(files)
    for path, row in rows.items():
        if path in reasons:
            assert (row["score"], row["verdict"]) == ("", "unreadable")
            assert row["reason"] == reasons[path]
        else:
            assert row["verdict"] in ("good", "anomalous")
            assert row["reason"] == ""
            expected = detector.predict(path)[0].pred_score
            assert float(row["score"]) == pytest.approx(expected, rel=1e-5)
    for kind in ("overlays", "masks", "maps"):
        found = [path for path in (tmp_path / "out" / kind).rglob("*") if path.is_file()]
        assert len(found) == written.images


def test_no_image_can_be_read(detector, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    written = write_predictions(detector, tmp_path / "a.png", tmp_path / "out")
    assert (written.images, written.anomalous, len(written.unreadable)) == (0, 0, 1)
    assert [row["verdict"] for row in rows_of(tmp_path / "out")] == ["unreadable"]


def test_masks_have_the_size_of_their_images(detector, images, tmp_path):
    wide = images / "hole" / "000.png"
    with Image.open(wide) as picture:
        picture.resize((150, 40)).save(wide)
    small = images / "hole" / "001.png"
    with Image.open(small) as picture:
        picture.resize((9, 20)).save(small)
    middle = float(detector.predict(images).pred_score.median())
    detector = copy.deepcopy(detector)
    detector.threshold = replace(detector.threshold, value=middle)
    written = write_predictions(detector, images, tmp_path / "out")
    assert written.anomalous > 0
    for row in rows_of(tmp_path / "out"):
        path = Path(row["image"])
        with Image.open(tmp_path / "out" / "masks" / path.relative_to(images)) as mask:
            assert mask.mode == "L"
            assert mask.size == read_image(path).size
            values = np.asarray(mask)
        assert set(np.unique(values)) <= {0, 255}
        # An anomalous image has an anomalous pixel, a good one has none.
        assert (values > 0).any() == (row["verdict"] == "anomalous")


def test_file_names_that_are_not_utf8(detector, images, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy(images / "good" / "000.png", images / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    broken = images / os.fsdecode(b"\xff.png")
    broken.write_bytes(b"x")
    written = write_predictions(detector, images, tmp_path / "out")
    assert [failure.path for failure in written.unreadable] == [broken]
    found = {row["image"]: row["verdict"] for row in rows_of(tmp_path / "out")}
    assert found[f"{images}/caf\\udce9.png"] in ("good", "anomalous")
    assert found[f"{images}/\\udcff.png"] == "unreadable"
    for kind in ("overlays", "masks"):
        assert (tmp_path / "out" / kind / name).is_file()


def test_one_image_or_many(detector, images, tmp_path):
    one = images / "good" / "000.png"
    for number, given in enumerate((str(one), one, [str(one)], (path for path in [one]))):
        written = write_predictions(detector, given, str(tmp_path / str(number)))
        assert written.images == 1
