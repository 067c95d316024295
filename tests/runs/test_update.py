"""Known images of a saved detector."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autopatch.data import draw_textures
from autopatch.detector import Detector
from autopatch.errors import InputError
from autopatch.runs import fit_images, update_detector

SPACE = "timm:test_efficientnet"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(folder, seed=8, image_size=64, train=14, test_good=3, per_type=2)


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    fit_images(data / "train" / "good", file, space=SPACE, weights="random", bank_size=50)
    return file


@pytest.fixture
def defects(data: Path, tmp_path: Path) -> Path:
    """A folder with two defects and their masks."""
    folder = tmp_path / "missed" / "crack"
    folder.mkdir(parents=True)
    for name in ("000", "001"):
        shutil.copy(data / "test" / "scratch" / f"{name}.png", folder)
        shutil.copy(data / "ground_truth" / "scratch" / f"{name}_mask.png", folder)
    return folder.parent


def test_defects_that_were_missed(plain: Path, defects: Path, data: Path, tmp_path: Path) -> None:
    updated = update_detector(str(plain), str(tmp_path / "new.safetensors"), defects=str(defects))
    assert [image.name for image in updated.known] == ["crack/000.png", "crack/001.png"]
    assert updated.describe_known() == "knows 2 defects (2 crack)"
    at_once = tmp_path / "at once.safetensors"
    fit_images(
        str(data / "train" / "good"),
        str(at_once),
        space=SPACE,
        weights="random",
        bank_size=50,
        defects=str(defects),
    )
    assert at_once.read_bytes() == (tmp_path / "new.safetensors").read_bytes()
    assert len(Detector.load(plain).known) == 0  # the file is as it was
    removed = tmp_path / "removed.safetensors"
    update_detector(tmp_path / "new.safetensors", removed, remove=["crack/000.png"])
    assert [image.name for image in Detector.load(removed).known] == ["crack/001.png"]


def test_good_images(plain: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    updated = update_detector(plain, out, good=data / "test" / "good")
    assert [image.type for image in updated.known] == ["good"] * 3
    assert updated.describe_known() == "knows 3 further good images"
    again = tmp_path / "again.safetensors"
    update_detector(out, again, remove=["good/000.png", "good/001.png"])
    assert [image.name for image in Detector.load(again).known] == ["good/002.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to change, expected `defects`, `good` or `remove`; known images: none"),
        ({"remove": "x"}, "`remove` names 'x', expected one of the known images: none"),
        ({"defects": "nowhere"}, "nowhere: no such folder"),
        ({"good": "nowhere"}, "nowhere: no such file"),
    ],
)
def test_updates_that_are_refused(
    plain: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    out = tmp_path / "new.safetensors"
    with pytest.raises(InputError, match=message):
        update_detector(plain, out, **options)
    assert not out.exists()


def test_a_file_is_not_overwritten(plain: Path, defects: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists; remove it or give another `out`"):
        update_detector(plain, plain, defects=defects)
