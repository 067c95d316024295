from __future__ import annotations

from pathlib import Path

import pytest

from autopatch.data import folder_images, named_images
from autopatch.errors import InputError

FILES = ("b.png", "a.PNG", "inner/a.jpg", "notes.txt", ".hidden.png", ".hidden/c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "images"


def test_images_of_a_folder(folder: Path) -> None:
    expected = [folder / name for name in ("a.PNG", "b.png", "inner/a.jpg")]
    assert folder_images(folder) == expected
    assert folder_images(str(folder)) == expected
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no image in this folder"):
        folder_images(folder / "empty")


def test_names_of_images(folder: Path) -> None:
    expected = {
        Path("a"): folder / "a.PNG",
        Path("b"): folder / "b.png",
        Path("inner/a"): folder / "inner/a.jpg",
    }
    assert named_images([folder]) == expected
    assert named_images([str(folder)]) == expected
    assert named_images([str(folder / "b.png")]) == {Path("b"): folder / "b.png"}


def test_names_that_cannot_be_given(folder: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png: no such file or folder"):
        named_images([str(folder / "absent.png")])
    with pytest.raises(InputError, match=r"a\.jpg: would overwrite the results of .*a\.PNG"):
        named_images([folder / "a.PNG", folder / "inner" / "a.jpg"])
