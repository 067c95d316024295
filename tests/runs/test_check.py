"""Images among the good ones that may show defects."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import MVTecAD, Reading, draw_textures
from autopatch.errors import InputError
from autopatch.runs import ComparedImage, DeepCheck, check, check_deep

PLANTED = {f"train/good/{name}.png" for name in ("hole0", "hole1", "hole2", "stain0", "stain1")}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with five defects among the good images."""
    root = tmp_path_factory.mktemp("dirty") / "data"
    draw_textures(root, seed=1, image_size=64, train=25, test_good=1, per_type=6)
    for kind, count in (("hole", 3), ("stain", 2)):
        for number, image in enumerate(sorted((root / "test" / kind).iterdir())[:count]):
            shutil.copy(image, root / "train" / "good" / f"{kind}{number}.png")
    return root


def test_five_planted_defects(dirty: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = check_deep(
        str(dirty), str(tmp_path / "out.png"), progress=lambda *step: told.append(step)
    )
    assert len(found.images) == 30
    scores = [image.score for image in found.images]
    assert scores == sorted(scores, reverse=True)
    assert np.median(scores) == pytest.approx(1)
    assert {image.name for image in found.images[:6]} > PLANTED
    unusual = {image.name for image in found.unusual}
    assert len(unusual & PLANTED) >= 4
    assert len(unusual - PLANTED) <= 1
    assert all(image.unusual == (image.score > found.limit) for image in found.images)
    assert {step for step, _, _ in told} == {"features", "compare images"}
    assert told[-1] == ("compare images", 30, 30)
    assert found.picture == tmp_path / "out.png"
    with Image.open(found.picture) as picture:
        pixels = np.asarray(picture)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    repeated = check_deep(MVTecAD.scan(dirty))
    assert repeated.images == found.images
    assert repeated.picture is None


def test_a_clean_folder_of_images(textures: Path, tmp_path: Path) -> None:
    found = check_deep(textures / "train" / "good", tmp_path / "out.png")
    assert len(found.images) == 16
    assert len(found.unusual) <= 1
    assert found.images[0].name == found.images[0].sample.image.name
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > picture.height  # six images in rows of two


def test_parts_of_large_sets(dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_TOGETHER", 15)
    monkeypatch.setattr(check, "_SHOWN", (1, 2))
    told: list[tuple[str, int, int]] = []
    found = check_deep(dirty, tmp_path / "a.png", progress=lambda *step: told.append(step))
    assert len({image.name for image in found.images}) == 30
    done = [number for step, number, _ in told if step == "features"]
    assert len(done) == 2
    assert done[-1] == 30
    assert found.images[0].name in PLANTED
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 2 * picture.height  # one row


def test_a_copy_does_not_hide_a_defect(dirty: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(dirty / "train" / "good", root)
    shutil.copy(root / "hole1.png", root / "again.png")
    pixels = np.array(Image.open(root / "hole0.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(root / "other.png")
    found = {image.name: image for image in check_deep(root).images}
    assert found["hole1.png"].unusual
    assert found["hole1.png"].score == found["again.png"].score
    assert not found["hole0.png"].unusual  # its twin differs, so it counts as another image
    groups = tmp_path / "groups.csv"
    group = {"hole0.png": "one part", "other.png": "one part"}
    rows = [f"{name},{group.get(name, name)}" for name in found]
    groups.write_text("\n".join(["file,group", *rows]))
    grouped = {image.name: image for image in check_deep(root, groups=groups).images}
    assert grouped["hole0.png"].unusual
    assert grouped["other.png"].unusual


def test_equal_pictures_at_the_size_of_the_backbone(tmp_path: Path) -> None:
    for number in range(9):
        pixels = np.zeros((500, 500), np.uint8)
        pixels[number, 0] = 1  # vanishes when the image is resized
        if number == 5:
            pixels[200:300, 200:300] = 200
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    found = check_deep(tmp_path, reading=Reading(bit_depth=8))
    assert [image.name for image in found.unusual] == ["5.png"]


def test_lines() -> None:
    sample = None
    images = tuple(
        ComparedImage(sample, name, score, score > 2)  # type: ignore[arg-type]
        for name, score in (("b.png", 3.456), ("c.png", 2.1), ("a.png", 1.0))
    )
    assert DeepCheck(images, 2.0, None).lines() == (
        "b.png: score 3.46 x the median",
        "c.png: score 2.10 x the median",
        "compared 3 good images: 2 do not look like the others; look at them, and remove them from "
        "the good images if they are defects",
    )
    assert DeepCheck(images[1:], 2.0, None).lines()[-1] == (
        "compared 2 good images: 1 does not look like the others; look at it, and remove it from "
        "the good images if it is a defect"
    )
    assert DeepCheck(images[2:], 2.0, None).lines() == (
        "compared 1 good image: none is unusual, the highest score is 1.00 x the median (a.png)",
    )


def test_mistakes(textures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    files = sorted((textures / "train" / "good").iterdir())[:7]
    for file in files:
        shutil.copy(file, few)
    shutil.copy(files[0], few / "again.png")
    with pytest.raises(InputError, match="7 good images that are not related, expected at least 8"):
        check_deep(few)
    with pytest.raises(InputError, match="cannot be written"):
        check_deep(textures, tmp_path / "nowhere" / "out.png")
    with pytest.raises(InputError, match="`group_regex` and `groups` are both given"):
        check_deep(textures, group_regex="1", groups=tmp_path / "groups.csv")
    with pytest.raises(InputError, match="device"):
        check_deep(textures, device="gpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few"]
