"""The synthesize command."""

import pytest
from PIL import Image

from autopatch.data import load_anomalies


def test_anomalies_of_the_default_kinds(autopatch, textures, tmp_path):
    code, out, err = autopatch(
        "synthesize", textures, "--out", tmp_path / "out", "--per-kind", "1", "--seed", "5"
    )
    assert code == 0, err
    assert "anomalies: 6 on 6 good images, of the kinds scratch, texture, cutpaste, blur" in out
    assert f"written: {tmp_path / 'out'}: contact_sheet.png, test, ground_truth" in out
    assert len(load_anomalies(tmp_path / "out")) == 6


def test_chosen_kinds_and_shots(autopatch, textures, tmp_path):
    code, out, err = autopatch(
        *("synthesize", textures, "--out", tmp_path / "out", "--kinds", "warp, transplant"),
        *("--per-kind", "2", "--shots", "1"),
    )
    assert code == 0, err
    assert "of the kinds warp, transplant" in out
    kinds = [anomaly.sample.type for anomaly in load_anomalies(tmp_path / "out")]
    assert kinds == ["warp", "warp", "transplant", "transplant"]


def test_a_folder_of_good_images(autopatch, textures, tmp_path):
    code, out, err = autopatch(
        *("synthesize", textures / "train" / "good", "--out", tmp_path / "out"),
        *("--kinds", "blur", "--per-kind", "20", "--bit-depth", "8", "--exif", "ignore"),
    )
    assert code == 0, err
    assert "anomalies: 20 on 16 good images, of the kinds blur" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kinds", "rust"), "an entry of --kinds is 'rust', expected one of 'scratch', "),
        (("--kinds", "blur,,tone"), "--kinds is 'blur,,tone', expected names"),
        (("--kinds", "transplant"), "--kinds has 'transplant', which needs --shots"),
        (("--per-kind", "0"), "--per-kind is 0, expected at least 1"),
        (("--shots", "9"), "expected at least --shots, 9"),
        (("--seed", "-3"), "--seed is -3, expected at least 0"),
        (("--bit-depth", "9"), "--bit-depth is 9"),
    ],
)
def test_wrong_options(autopatch, textures, tmp_path, options, message):
    code, _, err = autopatch("synthesize", textures, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_wrong_folders(autopatch, textures, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = autopatch("synthesize", tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert "empty" in err
    code, _, err = autopatch("synthesize", textures, "--out", tmp_path / "empty")
    assert code == 2
    assert "it exists, expected a new folder" in err
    (tmp_path / "small").mkdir()
    Image.new("L", (30, 12)).save(tmp_path / "small" / "a.png")
    code, _, err = autopatch("synthesize", tmp_path / "small", "--out", tmp_path / "out")
    assert code == 2
    assert "30 x 12 pixels, expected at least 16 x 16" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "small"]
