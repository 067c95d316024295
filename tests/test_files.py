from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from autopatch import files
from autopatch.errors import InputError
from autopatch.files import (
    new_folder,
    require_writable_file,
    restored_path,
    sha256_of,
    stored_path,
    write_bytes_atomically,
    write_json,
    write_text_atomically,
)

WRITERS: list[Callable[[Path], object]] = [
    lambda path: write_bytes_atomically(path, b"new"),
    lambda path: write_text_atomically(path, "new"),
    lambda path: write_json(path, {"new": 1}),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make(path: Path, body: Callable[[Path], object], *, replace: bool = False) -> None:
    with new_folder(path, replace=replace) as folder:
        body(folder)


def failing(reason: str) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, reason)

    return fail


def test_what_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert write_bytes_atomically(str(file), b"\x00\xff") == file
    assert file.read_bytes() == b"\x00\xff"
    write_text_atomically(file, "a\nµ")
    assert file.read_bytes() == "a\nµ".encode()
    assert write_json(file, {"a": [1], "b": "µ"}) == file
    assert json.loads(file.read_text()) == {"a": [1], "b": "µ"}
    assert file.read_text().splitlines()[1] == ' "a": ['
    assert file.read_text().endswith("}\n")
    assert names(tmp_path) == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    file, link = tmp_path / "inner/file.json", tmp_path / "link.json"
    link.symlink_to("inner/file.json")
    for text in ("first", "second"):  # the link is broken at first
        require_writable_file(link)
        assert write_text_atomically(link, text) == link
        assert link.is_symlink()
        assert file.read_text() == text
    assert names(tmp_path) == ["inner", "link.json"]
    assert names(tmp_path / "inner") == ["file.json"]


@pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f50d"])
def test_names_as_long_as_the_file_system_allows(tmp_path: Path, character: str) -> None:
    name = character * (255 // len(character.encode()))
    write_bytes_atomically(tmp_path / name, b"1")
    require_writable_file(tmp_path / name)
    for replace in (False, True):
        make(tmp_path / "folders" / name, lambda folder: folder, replace=replace)
    assert names(tmp_path) == sorted(["folders", name])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("place", [(os, "fsync"), (Path, "replace")])
def test_failed_write_leaves_the_earlier_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], object],
    place: tuple[object, str],
) -> None:
    file = tmp_path / "file.json"
    file.write_text("earlier")
    with monkeypatch.context() as patched:
        patched.setattr(*place, failing("No space left on device"))
        with pytest.raises(InputError) as caught:
            write(file)
    assert str(caught.value) == f"{file}: cannot be written: No space left on device"
    assert file.read_text() == "earlier"
    assert names(tmp_path) == ["file.json"]


def test_the_clean_up_does_not_hide_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing("first"))
        patched.setattr(Path, "unlink", failing("second"))
        with pytest.raises(InputError, match="cannot be written: first"):
            write_bytes_atomically(tmp_path / "file", b"")


def test_interrupted_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes_atomically(tmp_path / "file", b"")
    assert names(tmp_path) == []


def test_data_are_synced_before_they_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_bytes_atomically(tmp_path / "file", b"")
    assert steps == ["file", "replace", "folder"]


def test_a_file_system_that_cannot_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_bytes_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_writes_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "file"
    contents = [bytes([digit]) * 200_000 for digit in range(8)]
    threads = [
        threading.Thread(target=write_bytes_atomically, args=(file, data)) for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in contents
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("write", WRITERS)
def test_no_folder_to_write_to(tmp_path: Path, write: Callable[[Path], object]) -> None:
    file = tmp_path / "none" / "file"
    with pytest.raises(InputError, match=r"none/file: cannot be written: No such file"):
        write(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="file: cannot be written: Permission denied"):
            write_bytes_atomically(tmp_path / "file", b"")
        with pytest.raises(InputError, match="folder: cannot be written: Permission denied"):
            make(tmp_path / "folder", names)
    finally:
        tmp_path.chmod(0o755)


def test_text_without_a_utf8_form(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"file: cannot be written: .*surrogates"):
        write_text_atomically(tmp_path / "file", "\udc80")


def test_new_folder_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with new_folder(path) as folder:
        assert folder.parent == path.parent
        assert folder.name.startswith(".b.")
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("content")
        assert not path.exists()
    assert (path / "inner" / "file").read_text() == "content"
    assert names(path.parent) == ["b"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_permissions_are_the_usual_ones(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "folder"):
            pass
        write_bytes_atomically(tmp_path / "file", b"")
        (tmp_path / "usual").mkdir()
        (tmp_path / "usual_file").touch()
    finally:
        os.umask(before)
    for ours, usual in (("folder", "usual"), ("file", "usual_file")):
        assert (tmp_path / ours).stat().st_mode == (tmp_path / usual).stat().st_mode


def test_the_umask_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", failing("changed for all threads"))
    with new_folder(tmp_path / "folder"):
        pass


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_body_leaves_nothing(
    tmp_path: Path, replace: bool, error: type[BaseException]
) -> None:
    if replace:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "earlier").touch()

    def body(folder: Path) -> None:
        (folder / "file").touch()
        raise error

    with pytest.raises(error):
        make(tmp_path / "folder", body, replace=replace)
    assert names(tmp_path) == (["folder"] if replace else [])
    if replace:
        assert names(tmp_path / "folder") == ["earlier"]


def test_a_full_disk_in_the_body(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder: cannot be written: No space left"):
        make(tmp_path / "folder", failing("No space left on device"))
    assert names(tmp_path) == []


def test_new_folder_refuses_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written: it exists"):
        make(tmp_path / "folder", lambda _: pytest.fail("the body runs"))
    with pytest.raises(InputError, match="late: cannot be written: it exists"):
        make(tmp_path / "late", lambda _: (tmp_path / "late").mkdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written: it is a file"):
        make(tmp_path / "file", lambda _: pytest.fail("the body runs"), replace=True)
    assert names(tmp_path) == ["file", "folder", "late"]


def test_replaced_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with new_folder(path, replace=True) as folder:
            (folder / content).touch()
            assert names(path) == ["first"] if content == "second" else not path.exists()
    assert names(path) == ["second"]
    assert names(tmp_path) == ["folder"]


def test_replaced_folder_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "earlier").touch()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link", replace=True) as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "real"]
    assert names(tmp_path / "real") == ["new"]


def test_failed_swap_restores_the_earlier_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "earlier").touch()
    rename = Path.rename

    def fail_for_the_new_one(source: Path, target: Path) -> Path:
        if source.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(InputError, match="folder: cannot be written: Input/output error"):
        make(path, lambda folder: (folder / "new").touch(), replace=True)
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["earlier"]


def test_everything_in_a_new_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = files._sync

    def record(path: Path) -> None:
        synced.append(path.name)
        sync(path)

    monkeypatch.setattr(files, "_sync", record)
    with new_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").touch()
        (folder / "b").touch()
        (folder / "link").symlink_to("nowhere")
    assert sorted(synced) == sorted(["a", "b", "inner", folder.name, tmp_path.name])


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        sha256_of(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        sha256_of(tmp_path)


@pytest.mark.parametrize(
    ("path", "base", "stored"),
    [
        ("/home/ann/data/tiles", "/home/ann/runs/a", "../../data/tiles"),
        ("/home/ann/runs/a/split.json", "/home/ann/runs/a", "split.json"),
        ("/home/ann/runs/a", "/home/ann/runs/a", "."),
        ("/home/ann", "/home/ann/runs/a", "../.."),
        ("/home/ann/x/../data", "/home/ann/runs/", "../data"),
        ("/data/tiles", "/home/ann/runs/a", "/data/tiles"),
        ("/data/tiles", "/", "/data/tiles"),
    ],
)
def test_stored_paths(path: str, base: str, stored: str) -> None:
    assert stored_path(path, base) == stored
    assert restored_path(stored, base) == Path(os.path.normpath(path))


def test_stored_paths_of_relative_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored = stored_path(Path("data"), tmp_path / "runs")
    assert stored == "../data"
    assert restored_path(stored, "runs") == Path("data")


def test_targets_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("earlier")
    (tmp_path / "folder").mkdir()
    files.require_writable_file(tmp_path / "new")
    files.require_writable_file(tmp_path / "file")
    files.require_writable_file(tmp_path / "file", in_place=True)
    files.require_writable_folder(tmp_path / "a" / "b" / "new")
    files.require_writable_folder(tmp_path / "folder", replace=True)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "earlier"


def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="none/x: cannot be written: No such file"):
        files.require_writable_file(tmp_path / "none" / "x")
    with pytest.raises(InputError, match="none: cannot be written: No such file"):
        files.require_writable_file(tmp_path / "none", in_place=True)
    with pytest.raises(InputError, match="folder: cannot be written: it is a folder"):
        files.require_writable_file(tmp_path / "folder")
    with pytest.raises(InputError, match="folder: cannot be written: it exists"):
        files.require_writable_folder(tmp_path / "folder")
    with pytest.raises(InputError, match="file: cannot be written: it is a file"):
        files.require_writable_folder(tmp_path / "file", replace=True)
    with pytest.raises(InputError, match="x: cannot be written: Not a directory"):
        files.require_writable_folder(tmp_path / "file" / "x")
    monkeypatch.setattr(os, "fsync", failing("No space left on device"))
    for require in (files.require_writable_file, files.require_writable_folder):
        with pytest.raises(InputError, match="x: cannot be written: No space left on device"):
            require(tmp_path / "x")
    assert names(tmp_path) == ["file", "folder"]


def test_parents_that_were_made_go_with_a_failed_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left"):
        make(tmp_path / "a" / "b" / "c", failing("No space left on device"))
    assert names(tmp_path) == []


def test_messages_name_the_folder_and_not_the_hidden_one(tmp_path: Path) -> None:
    def body(folder: Path) -> None:
        with new_folder(folder / "inner"):
            raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(InputError) as caught:
        make(tmp_path / "folder", body)
    message = f"{tmp_path / 'folder' / 'inner'}: cannot be written: Read-only file system"
    assert str(caught.value) == message


def test_a_folder_that_cannot_be_moved_back_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "earlier").touch()
    rename = Path.rename

    def only_the_first(source: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", failing("Input/output error"))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", only_the_first)
    with pytest.raises(InputError, match="Input/output error; the earlier one is now ") as caught:
        make(path, lambda folder: (folder / "new").touch(), replace=True)
    assert names(Path(str(caught.value).rpartition(" is now ")[2])) == ["earlier"]
