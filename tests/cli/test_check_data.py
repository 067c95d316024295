"""The option --deep of check-data."""

import shutil

from PIL import Image


def test_unusual_images_are_listed_and_drawn(autopatch, textures, tmp_path):
    folder = tmp_path / "good"
    shutil.copytree(textures / "train" / "good", folder)
    hole = min((textures / "test" / "hole").iterdir())
    shutil.copy(hole, folder / "planted.png")
    code, out, err = autopatch("check-data", folder, "--deep", "--out", tmp_path / "unusual.png")
    assert code == 0, err
    listed = [line for line in out.splitlines() if "x the median" in line]
    assert listed[0].startswith("planted.png: score ")
    assert "compared 17 good images: " in out
    assert "remove" in out
    assert f"written: {tmp_path / 'unusual.png'}" in out
    with Image.open(tmp_path / "unusual.png") as picture:
        assert picture.format == "PNG"


def test_groups_are_compared_with_other_groups(autopatch, textures):
    code, out, err = autopatch("check-data", textures, "--deep", "--group-regex", r"^\d*(\d)")
    assert code == 0, err
    assert "10 groups" in out
    assert "compared 16 good images" in out
    assert "written" not in out
    code, _, err = autopatch("check-data", textures, "--deep", "--group-regex", r"^\d*?(0)")
    assert code == 2


def test_nothing_is_compared_without_the_option(autopatch, textures, tmp_path):
    code, out, _ = autopatch("check-data", textures)
    assert code == 0
    assert "compared" not in out
    code, _, err = autopatch("check-data", textures, "--out", tmp_path / "a.png")
    assert code == 2
    assert "--out is given without --deep" in err
    assert list(tmp_path.iterdir()) == []
