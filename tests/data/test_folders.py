from __future__ import annotations

import os
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


def test_what_a_folder_holds_besides_images_is_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder_images(folder)
    assert caplog.messages == [
        f"{folder}: skipped 1 file without the suffix of an image format that can be read "
        "(notes.txt)"
    ]


def test_names_of_images(folder: Path) -> None:
    expected = {
        Path("a"): folder / "a.PNG",
        Path("b"): folder / "b.png",
        Path("inner/a"): folder / "inner/a.jpg",
    }
    assert named_images([folder]) == expected
    assert named_images([str(folder)]) == expected
    assert named_images([str(folder / "b.png")]) == {Path("b"): folder / "b.png"}
    for one in (folder / "b.png", str(folder / "b.png")):
        assert named_images(one) == {Path("b"): folder / "b.png"}
    assert named_images(map(str, [folder])) == expected


def test_names_are_relative_to_the_deepest_common_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("test/dent/1.png", "test/hole/1.png"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    files = [Path("test/dent/1.png"), Path("test/hole/1.png")]
    names = [Path("dent/1"), Path("hole/1")]
    assert named_images(files) == dict(zip(names, files, strict=True))
    assert named_images([file.absolute() for file in files]).keys() == set(names)
    assert named_images(["test"]) == named_images(["test/dent", "test/hole/"])
    assert list(named_images(["test", "a.PNG"])) == [
        Path("test/dent/1"),
        Path("test/hole/1"),
        Path("a"),
    ]
    assert named_images(["inner/../test/dent/1.png"]).keys() == {Path("1")}


def test_an_image_that_is_given_twice_counts_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    same = [folder, "b.png", "./b.png", "inner/../b.png", folder / "b.png"]
    assert named_images(same) == named_images([folder])


def test_names_keep_their_suffixes_where_images_differ_in_nothing_else(folder: Path) -> None:
    (folder / "b.jpg").touch()
    assert list(named_images([folder])) == [
        Path("a.PNG"),
        Path("b.jpg"),
        Path("b.png"),
        Path("inner/a.jpg"),
    ]
    assert list(named_images([folder / "b.png"])) == [Path("b")]


def test_no_result_has_the_name_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png/b.png", "c/d.png.npy/e.png", "c/d.png", "c/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert set(map(str, named_images([tmp_path / "a.jpg", tmp_path / "a.png"]))) == {
        "a.jpg",
        "a.png/b.png",
    }
    with pytest.raises(InputError, match=r"c/d.png: its results would have the name of a folder"):
        named_images([tmp_path / "c"])


def test_names_that_are_not_utf_8(folder: Path) -> None:
    raw = os.fsencode(folder) + b"/inner/\xe4.png"
    Path(os.fsdecode(raw)).touch()
    found = named_images([folder])[Path("inner", os.fsdecode(b"\xe4"))]
    assert os.fsencode(found) == raw


def test_names_that_cannot_be_given(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png: no such file or folder"):
        named_images([str(folder / "absent.png")])
    with pytest.raises(InputError, match="`images` is empty"):
        named_images([])
    elsewhere = tmp_path / "elsewhere" / "inner"
    elsewhere.mkdir(parents=True)
    (elsewhere.parent / "b.png").touch()
    (folder / "link").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"link/\.\./b\.png: would overwrite the results of .*b"):
        named_images([folder / "b.png", folder / "link" / ".." / "b.png"])


def test_a_path_that_cannot_be_looked_at() -> None:
    with pytest.raises(InputError, match=r"x: cannot be read: File name too long"):
        named_images(["x" * 300])
