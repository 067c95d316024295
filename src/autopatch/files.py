"""Atomic writes of files and folders, file hashes, and paths stored in documents."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from autopatch.errors import InputError, one_line, reason

StrPath: TypeAlias = str | os.PathLike[str]
"""Path of a file or folder."""

_CHUNK = 1 << 20
_PROBE = bytes(4096)


def write_bytes_atomically(path: StrPath, data: bytes) -> Path:
    """Writes a file atomically. An existing file stays until it is replaced.

    The data are on disk when this returns.

    Returns:
        `path`.

    Raises:
        InputError: The file cannot be written.
    """
    with new_file(path) as unfinished:
        unfinished.write_bytes(data)
    return Path(path)


def write_text_atomically(path: StrPath, text: str) -> Path:
    """Writes text as UTF-8, see `write_bytes_atomically`.

    Raises:
        InputError: The file cannot be written, or the text has no UTF-8 form.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _cannot_be_written(path, error) from error
    return write_bytes_atomically(path, data)


def write_json(path: StrPath, document: Mapping[str, Any]) -> Path:
    """Writes a JSON document with one value per line, see `write_bytes_atomically`.

    Raises:
        InputError: The file cannot be written.
    """
    return write_text_atomically(path, json.dumps(document, indent=1) + "\n")


@contextlib.contextmanager
def new_file(path: StrPath) -> Iterator[Path]:
    """Makes a file atomically, for code that writes to a path itself.

    The body fills a hidden file next to `path`. On success that file replaces `path`; after an
    error it is removed. If `path` is a link, the file that it leads to is made or replaced.

    Yields:
        The hidden file, empty.

    Raises:
        InputError: The file cannot be written.
    """
    target = Path(os.path.realpath(path))
    unfinished = _hidden_sibling(target, "partial")
    try:
        unfinished.touch(exist_ok=False)
        yield unfinished
        _sync(unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise _cannot_be_written(path, error) from error
    finally:
        _remove_file(unfinished)
    _sync_folder(target.parent)


@contextlib.contextmanager
def new_folder(path: StrPath, *, replace: bool = False) -> Iterator[Path]:
    """Makes a folder atomically.

    The body fills a hidden folder next to `path`. On success that folder is renamed to `path`;
    after an error it is removed. Missing parents are made.

    Args:
        path: The folder to make.
        replace: Whether to replace an existing folder at `path` and all it holds. The old folder
            stays until the new one is complete.

    Yields:
        The hidden folder.

    Raises:
        InputError: The folder cannot be written, `path` is a file, or it exists and `replace` is
            False.
    """
    target = Path(os.path.realpath(path)) if replace else absolute_path(path)
    _require_free(path, target, replace)
    unfinished = _hidden_sibling(target, "partial")
    missing_parents = [parent for parent in target.parents if not os.path.lexists(parent)]
    finished = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        yield unfinished
        _sync_tree(unfinished)
        _require_free(path, target, replace)
        if target.is_dir():
            _swap(unfinished, target)
        else:
            unfinished.rename(target)
        finished = True
    except OSError as error:
        raise _cannot_be_written(path, error) from error
    except InputError as error:
        # The message may name a file in the hidden folder.
        message = str(error)
        if str(unfinished) not in message:
            raise
        raise InputError(message.replace(str(unfinished), str(target))) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not finished:
            _remove_empty(missing_parents)
    _sync_folder(target.parent)


def require_writable_file(path: StrPath, *, in_place: bool = False) -> None:
    """Checks that a file can be written, before long work that writes it.

    Writes 4 KiB to a hidden file in the same folder and removes it.

    Args:
        path: The file. Its folder must exist.
        in_place: True if an existing file will be changed in place; False if a new file will be
            written, or an existing one replaced by `write_bytes_atomically`.

    Raises:
        InputError: The file cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise InputError(f"{path}: cannot be written: it is a folder, expected a file or none")
        if in_place:
            with target.open("r+b"):
                pass
        _probe(target)
    except OSError as error:
        raise _cannot_be_written(path, error) from error


def require_writable_folder(path: StrPath, *, replace: bool = False) -> None:
    """Checks that `new_folder` can make a folder, before long work that fills it.

    Writes 4 KiB to a hidden file in the closest existing parent and removes it.

    Args:
        path: The folder.
        replace: See `new_folder`.

    Raises:
        InputError: The folder cannot be written, `path` is a file, or it exists and `replace` is
            False.
    """
    target = Path(os.path.realpath(path)) if replace else absolute_path(path)
    try:
        _require_free(path, target, replace)
        closest = target
        while not os.path.lexists(closest.parent):
            closest = closest.parent
        _probe(closest)
    except OSError as error:
        raise _cannot_be_written(path, error) from error


def sha256_of(path: StrPath) -> str:
    """SHA-256 of a file's contents, as 64 hexadecimal digits.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    return digest.hexdigest()


def path_kind(path: StrPath) -> Literal["file", "folder"] | None:
    """What a path leads to, "file" for anything but a folder; None if there is nothing.

    Raises:
        InputError: The path cannot be looked up, for example because its name is too long.
    """
    try:
        return "folder" if stat.S_ISDIR(Path(path).stat().st_mode) else "file"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a null character
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None


def stored_path(path: StrPath, base: StrPath) -> str:
    """The form of a path in a document that lies in the folder `base`, with forward slashes.

    The path is relative to `base` if both share a parent folder other than the file system root, so
    that they can be moved together. Otherwise it is absolute. Links are not followed.
    """
    whole, start = absolute_path(path), absolute_path(base)
    try:
        common = Path(os.path.commonpath([whole, start]))
    except ValueError:  # two drives
        common = Path(whole.anchor)
    if common == Path(common.anchor):
        return whole.as_posix()
    return Path(os.path.relpath(whole, start)).as_posix()


def restored_path(text: str, base: StrPath) -> Path:
    """The path that `stored_path` stored in a document in `base`; `base` may have moved."""
    return Path(os.path.normpath(Path(base) / text))


def cache_folder() -> Path:
    """The folder for downloads: AUTOPATCH_CACHE, or autopatch in the user's cache folder.

    Raises:
        InputError: AUTOPATCH_CACHE names the home of an unknown user.
    """
    if chosen := os.environ.get("AUTOPATCH_CACHE"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise InputError(f"AUTOPATCH_CACHE is {chosen!r}: {one_line(error)}") from None
    import platformdirs  # here, as nothing else needs it

    return Path(platformdirs.user_cache_dir("autopatch", appauthor=False))


def absolute_path(path: StrPath) -> Path:
    """The absolute path without "." and ".."; links are not followed."""
    return Path(os.path.normpath(Path(path).absolute()))


def _probe(path: Path) -> None:
    """Raises OSError unless a file can be written in the folder of `path`."""
    probe = _hidden_sibling(path, "probe")
    try:
        with probe.open("xb") as stream:
            stream.write(_PROBE)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        _remove_file(probe)


def _hidden_sibling(path: Path, suffix: str) -> Path:
    # Shortened, as a name has at most 255 bytes: up to four for a character.
    return path.parent / f".{path.name[:50]}.{secrets.token_hex(4)}.{suffix}"


def _require_free(path: StrPath, target: Path, replace: bool) -> None:
    if not os.path.lexists(target):
        return
    if not replace:
        raise InputError(f"{path}: cannot be written: it exists, expected a new folder")
    if not target.is_dir():
        raise InputError(f"{path}: cannot be written: it is a file, expected a folder or none")


def _swap(new: Path, target: Path) -> None:
    """Replaces the folder `target` by `new`. On failure `target` is restored."""
    earlier = _hidden_sibling(target, "earlier")
    target.rename(earlier)
    try:
        new.rename(target)
    except BaseException as error:
        try:
            earlier.rename(target)
        except OSError:
            raise InputError(
                f"{target}: cannot be written: {reason(error)}; the earlier one is now {earlier}"
            ) from error
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            if file.is_file() and not file.is_symlink():
                _sync(file)
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    # The files are already in place, so failure is no error: some file systems cannot sync folders,
    # and some folders can be written but not read.
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_file(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _cannot_be_written(path: StrPath, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be written: {reason(error)}")
