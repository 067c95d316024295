from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from autopatch.data.walker import _FORMATS, IMAGE_SUFFIXES, list_folder, walk
from autopatch.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name in ("a.png", "inner/b.jpg", "inner/deep/c.tif"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in walk(folder).images]


def test_suffixes_are_those_pillow_reads() -> None:
    readable = {}
    for suffix, kind in Image.registered_extensions().items():
        if kind in Image.OPEN:
            readable.setdefault(kind, set()).add(suffix)
    readable["MPO"] = {".mpo"}  # Pillow opens it as JPEG
    for kind, suffixes in _FORMATS.items():
        # A Pillow that was built without a format gives an error for its files.
        assert kind not in readable or readable[kind] <= {*suffixes, ".rgb", ".rgba", ".bw"}
        assert kind == "AVIF" or kind in readable
    assert {".jfif", ".jpe", ".jp2", ".dib", ".tga", ".ppm"} <= IMAGE_SUFFIXES
    assert not {".pdf", ".psd", ".h5", ".mpg", ".ico", ".txt"} & IMAGE_SUFFIXES


def test_parts_of_a_listing(folder: Path) -> None:
    (folder / "notes.txt").touch()
    (folder / "pipe.png").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / ".hidden.png").touch()
    (folder / "Thumbs.db").touch()
    listing = list_folder(folder)
    assert listing.images == (folder / "a.png",)
    assert listing.folders == (folder / "folder.png", folder / "inner")
    assert listing.others == (folder / "notes.txt", folder / "pipe.png")


def test_linked_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.png").touch()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "e.png").symlink_to(folder / "a.png")
    assert names(folder) == ["a.png", "e.png", "inner/b.jpg", "inner/deep/c.tif", "linked/d.png"]
    assert walk(folder).notes == ()


def test_a_folder_is_read_once_by_its_own_path(folder: Path, tmp_path: Path) -> None:
    before = names(folder)
    (folder / "again").symlink_to(folder / "inner")
    (folder / "inner" / "deep" / "up").symlink_to(folder)
    (folder / "inner" / "above").symlink_to(tmp_path)
    assert names(folder) == before
    assert walk(folder).notes == (
        f"{folder}: skipped 3 links to folders that were read already or contain them "
        "(again, inner/above, inner/deep/up)",
    )


def test_links_that_lead_nowhere(folder: Path) -> None:
    (folder / "inner" / "batch").symlink_to(folder / "unmounted")
    with pytest.raises(InputError, match=r"inner/batch: a link to a file or folder that does not"):
        walk(folder)
    (folder / "inner" / "batch").unlink()
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match=r"loop\.png: cannot be read: Too many levels"):
        walk(folder)


def test_folders_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"inner/deep: cannot be read: Permission denied"):
        walk(folder)
    with pytest.raises(InputError, match=r"absent: no such folder"):
        walk(folder / "absent")
    with pytest.raises(InputError, match=r"a\.png: not a folder"):
        list_folder(folder / "a.png")
