"""Files and folders that appear whole or not at all, their digests, and paths kept in documents."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from autopatch.errors import InputError, one_line

StrPath: TypeAlias = str | os.PathLike[str]
"""What names a file."""

_CHUNK = 1 << 20
_NO_FOLDER_SYNC = frozenset({errno.EACCES, errno.EINVAL, errno.ENOTSUP})


def write_bytes_atomically(path: StrPath, data: bytes) -> Path:
    """Writes a file that appears whole or not at all; an earlier one stays until it is replaced.

    The data lie on the disk when this returns.

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
    """Writes a JSON document with one value a line, see `write_bytes_atomically`.

    Raises:
        InputError: The file cannot be written.
    """
    return write_text_atomically(path, json.dumps(document, indent=1) + "\n")


@contextlib.contextmanager
def new_file(path: StrPath) -> Iterator[Path]:
    """Makes a file that appears whole or not at all, for what writes a file by itself.

    The body fills a hidden file beside `path`, which takes its place at the end, and is removed
    after an error.

    Yields:
        The hidden file, empty.

    Raises:
        InputError: The file cannot be written.
    """
    target = Path(path)
    unfinished = _hidden_sibling(target, "partial")
    try:
        try:
            unfinished.touch(exist_ok=False)
            yield unfinished
            _sync(unfinished)
            unfinished.replace(target)
        except BaseException:
            _remove_file(unfinished)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise _cannot_be_written(path, error) from error


@contextlib.contextmanager
def new_folder(path: StrPath, *, replace: bool = False) -> Iterator[Path]:
    """Makes a folder that appears whole or not at all.

    The body fills a hidden folder beside `path`, which is moved there at the end, and removed
    after an error. Parents are made.

    Args:
        path: The folder to make.
        replace: Whether a folder at `path` is replaced as a whole. It stays where it is until the
            new one is complete. What it holds is not looked at.

    Yields:
        The hidden folder.

    Raises:
        InputError: The folder cannot be written, `path` is a file, or it exists and `replace` is
            False.
    """
    target = Path(os.path.realpath(path)) if replace else _absolute(path)
    _require_free(path, target, replace)
    unfinished = _hidden_sibling(target, "partial")
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
        _sync_folder(target.parent)
    except OSError as error:
        raise _cannot_be_written(path, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sha256_of(path: StrPath) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error
    return digest.hexdigest()


def stored_path(path: StrPath, base: StrPath) -> str:
    """A path as a document in the folder `base` keeps it, with forward slashes.

    It is relative to `base` where both lie in one folder other than the root of the file system,
    so that they can be moved together, and absolute otherwise. Links are not followed.
    """
    whole, start = _absolute(path), _absolute(base)
    try:
        common = Path(os.path.commonpath([whole, start]))
    except ValueError:  # two drives
        common = Path(whole.anchor)
    if common == Path(common.anchor):
        return whole.as_posix()
    return Path(os.path.relpath(whole, start)).as_posix()


def restored_path(text: str, base: StrPath) -> Path:
    """The path that `stored_path` gave as `text` for a document in `base`, which may have moved."""
    return Path(os.path.normpath(Path(base) / text))


def cache_folder() -> Path:
    """Where downloads are kept: AUTOPATCH_CACHE, else autopatch in the user's cache folder.

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


def _absolute(path: StrPath) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _hidden_sibling(path: Path, suffix: str) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.{suffix}"


def _require_free(path: StrPath, target: Path, replace: bool) -> None:
    if not os.path.lexists(target):
        return
    if not replace:
        raise InputError(f"{path}: cannot be written: it exists, expected a new folder")
    if not target.is_dir():
        raise InputError(f"{path}: cannot be written: it is a file, expected a folder or none")


def _swap(new: Path, target: Path) -> None:
    """Puts `new` in the place of the folder `target`, which stays if that fails."""
    earlier = _hidden_sibling(target, "earlier")
    target.rename(earlier)
    try:
        new.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):
            earlier.rename(target)
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
    # Some file systems do not sync folders, and a folder may be one to write but not to read.
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_file(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _cannot_be_written(path: StrPath, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be written: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)
