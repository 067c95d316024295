"""The predict command with images that cannot be read, and with names of any bytes."""

import io
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from autopatch.cli import main
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


def test_a_damaged_file_of_any_format_is_a_row_of_the_table(
    autopatch, detector_file, textures, tmp_path
):
    images = tmp_path / "images"
    images.mkdir()
    pages = [Image.open(path) for path in sorted((textures / "test" / "good").iterdir())[:3]]
    pages[0].save(images / "good.png")
    pages[0].save(images / "pages.tif", save_all=True, append_images=pages[1:])
    whole = (images / "pages.tif").read_bytes()
    (images / "pages.tif").write_bytes(whole[: len(whole) // 2])
    code, _, err = autopatch("predict", detector_file, images, "--out", tmp_path / "out")
    assert code == 2
    assert "1 of 2 images cannot be read, the first: " in err
    assert (tmp_path / "out" / "scores.csv").read_text().count(",unreadable,") == 1


def in_the_locale_c(arguments):
    result = subprocess.run(
        [sys.executable, "-m", "autopatch", *arguments],
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return result.returncode, result.stdout, result.stderr


def in_an_ascii_terminal(arguments):
    """In this process, with the streams that Python opens if PYTHONIOENCODING is "ascii"."""
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autopatch", *map(os.fspath, arguments)])
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, "ascii"))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, "ascii", "backslashreplace"))
        with pytest.raises(SystemExit) as end:
            main()
        sys.stdout.flush()
        sys.stderr.flush()
        said = out.getvalue(), err.getvalue()
    return end.value.code, *said


@pytest.mark.usefixtures("autopatch")  # which undoes what a command does to the log
@pytest.mark.parametrize("run", [in_the_locale_c, in_an_ascii_terminal])
def test_a_name_that_is_not_utf8_in_any_terminal(detector_file, textures, tmp_path, run):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    shutil.copy(textures / "test" / "good" / "000.png", folder / os.fsdecode(b"\xfc.png"))
    (folder / "broken.png").write_bytes(b"x")
    code, out, err = run(["predict", detector_file, folder, "--out", folder / "out"])
    assert code == 2, err
    assert b"caf\\udce9" in out
    assert b"caf\\udce9/broken.png: not an image" in err
    assert b"Traceback" not in err
    table = (folder / "out" / "scores.csv").read_text(encoding="utf-8")
    assert "\\udcfc.png" in table
