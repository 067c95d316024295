"""The fit command on a folder of good images, without a search."""

import shutil

import numpy as np
import pytest
from PIL import Image

from autopatch.data import Reading
from autopatch.detector import Detector
from autopatch.runs import fit_images
from autopatch.runs.folder import STUDY

from .conftest import SPACE

WEIGHTS = ("--space", SPACE, "--weights", "random")


@pytest.fixture
def good(textures, tmp_path):
    return shutil.copytree(textures / "train" / "good", tmp_path / "good parts")


def test_good_images_are_enough(autopatch, good, textures, tmp_path):
    out = tmp_path / "my detector.safetensors"
    code, said, err = autopatch("fit", good, *WEIGHTS, "--bank-size", 50, "--out", out)
    assert code == 0, err
    detector = Detector.load(out)
    # All 16 images set the threshold.
    assert detector.architecture.head.bank_size == 50
    assert detector.threshold.images == 16
    for line in (
        "224 px, stride 8 p3 + stride 16 p3, bank 50",
        "RANDOM features",
        "from 16 good images",
        f"written: {out}",
        f"next: autopatch predict '{out}' IMAGES --out RESULTS",
    ):
        assert line in said
    code, said, err = autopatch("predict", out, textures / "test", "--out", tmp_path / "found")
    assert code == 0, err
    assert "of 22 images anomalous" in said

    code, _, err = autopatch("fit", good, *WEIGHTS, "--out", out)
    assert code == 2
    assert err == f"autopatch: {out}: exists; remove it or give another --out\n"


def test_defects_are_added(autopatch, good, textures, tmp_path):
    out, updated = tmp_path / "d.safetensors", tmp_path / "e.safetensors"
    small = (*WEIGHTS, "--bank-size", 50)
    code, said, err = autopatch("fit", good, *small, "--defects", textures, "--out", out)
    assert code == 0, err
    known = Detector.load(out).known
    assert f"knows {len(known)} defects (" in said
    code, said, err = autopatch(
        "update", out, "--remove", known[0].name, "--good", textures / "test" / "good",
        "--out", updated,
    )  # fmt: skip
    assert code == 0, err
    assert f"knows {len(known) - 1} defects (" in said
    assert "further good image" in said
    assert f"known: {known[1].name}" in said
    assert f"written: {updated}" in said
    code, _, err = autopatch("update", out, "--out", tmp_path / "f.safetensors")
    assert code == 2
    assert "nothing to change, expected --defects, --good or --remove; known images: " in err


def test_the_command_is_one_call(autopatch, good, tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    assert autopatch("fit", good, *WEIGHTS, "--seed", 3, "--out", one)[0] == 0
    detector = fit_images(str(good), str(other), space=SPACE, weights="random", seed=3)
    assert one.read_bytes() == other.read_bytes()
    # The PatchCore baseline: 10 % of 28 x 28 patches of 16 images.
    assert detector.architecture.head.bank_size == 1254


def test_options_of_the_other_kind_are_refused(autopatch, good, tmp_path):
    out = ("--out", tmp_path / "d.safetensors")
    run = tmp_path / "run"
    run.mkdir()
    (run / STUDY).write_bytes(b"")
    for folder, option, what in (
        (good, ("--trial", 0), "is not the folder of a search"),
        (good, ("--patchcore",), "is not the folder of a search"),
        (good, ("--data", good), "is not the folder of a search"),
        (run, ("--space", SPACE), "is the folder of a search"),
        (run, ("--bank-size", 5), "is the folder of a search"),
        (run, ("--seed", 0), "is the folder of a search"),
    ):
        code, _, err = autopatch("fit", folder, *option, *out)
        assert code == 2
        assert err == f"autopatch: {option[0]} is given, but {folder} {what}\n"


def test_what_cannot_be_fitted(autopatch, good, textures, tmp_path):
    out = ("--out", tmp_path / "d.safetensors")
    for arguments, message in (
        ((tmp_path / "nowhere", *out), "nowhere: no such folder"),
        ((good,), f"{good} is not the folder of a search, so --out is needed"),
        ((textures, *WEIGHTS, *out), f"such as {textures / 'train' / 'good'}"),
        ((good, *WEIGHTS, "--bank-size", 0, *out), "bank size is 0"),
        ((good, *WEIGHTS, "--bank-size", 9, "--architecture", "a", *out), "no --bank-size beside"),
        ((good, *WEIGHTS, "--false-alarm-rate", 1, *out), "--false-alarm-rate is 1.0"),
        ((good, "--device", "gpu", *out), "--device is 'gpu'"),
    ):
        code, _, err = autopatch("fit", *arguments)
        assert code == 2, arguments
        assert err.count("\n") == 1
        assert message in err
    assert not out[1].exists()


def test_good_images_of_12_bits(autopatch, good, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in good.iterdir():
        deep = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(deep).save(path, exif=exif)
    out = tmp_path / "detector.safetensors"
    few = ("--bank-size", 50)
    code, _, err = autopatch("fit", good, *WEIGHTS, *few, "--exif", "ignore", "--out", out)
    assert code == 0, err
    assert Detector.load(out).reading == Reading(bit_depth=12, exif="ignore")
    code, said, err = autopatch("predict", out, good, "--out", tmp_path / "found")
    assert code == 0, err
    assert "brighter" not in said
    bright = good / "bright.png"
    Image.fromarray(np.full((64, 64), 5000, np.uint16)).save(bright)
    code, said, err = autopatch("predict", out, bright, "--out", tmp_path / "more")
    assert code == 0, err
    assert f"clipped at 4095): {bright}; " in said
