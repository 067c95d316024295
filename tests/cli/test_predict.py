"""The predict command with images that cannot be read, and with names of any bytes."""

import os
import shutil
import subprocess
import sys

import pytest

from autopatch.detector import Architecture, Detector, Head, Input
from autopatch.supernet import Backbone, load_supernet

from .conftest import SPACE


@pytest.fixture(scope="module")
def detector_file(textures, tmp_path_factory):
    file = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    Detector.fit(
        textures / "train" / "good",
        supernet=load_supernet(SPACE, "random"),
        architecture=Architecture(Input(64), Backbone(SPACE, (1,)), Head((3,), 60)),
        evaluation_size=32,
    ).save(file)
    return file


def test_a_broken_image_is_named_at_the_end(autopatch, detector_file, textures, tmp_path):
    images = shutil.copytree(textures / "test", tmp_path / "images")
    broken = images / "good" / "001.png"
    broken.write_bytes(b"x")
    out = tmp_path / "out"
    code, said, err = autopatch("predict", detector_file, images, "--out", out)
    assert code == 2
    assert "of 21 images anomalous" in said
    assert err == (
        f"autopatch: 1 of 22 images cannot be read, the first: {broken}: not an image in a format "
        "that can be read\n"
    )
    assert len(list((out / "masks").rglob("*.png"))) == 21


@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_name_that_is_not_utf8_in_any_terminal(detector_file, textures, tmp_path, variables):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    shutil.copy(textures / "test" / "good" / "000.png", folder / os.fsdecode(b"\xfc.png"))
    (folder / "broken.png").write_bytes(b"x")
    command = [sys.executable, "-m", "autopatch", "predict", detector_file, folder, "--out"]
    result = subprocess.run(
        [*command, folder / "out"], capture_output=True, env={**os.environ, **variables}
    )
    assert result.returncode == 2, result.stderr
    assert b"caf\\udce9" in result.stdout
    assert b"caf\\udce9/broken.png: not an image" in result.stderr
    assert b"Traceback" not in result.stderr
    table = (folder / "out" / "scores.csv").read_text(encoding="utf-8")
    assert "\\udcfc.png" in table
