"""Images in folders, whatever their layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autopatch.data.mvtec import IMAGE_SUFFIXES
from autopatch.errors import InputError
from autopatch.files import StrPath


def folder_images(folder: StrPath) -> list[Path]:
    """Image files below a folder, sorted; hidden files and folders are passed over.

    Raises:
        InputError: There is none.
    """
    folder = Path(folder)
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise InputError(f"{folder}: no image in this folder")
    return found


def named_images(paths: Sequence[StrPath]) -> dict[Path, Path]:
    """Image files by the names their results get, without suffix: those below a given folder keep
    their place in it.

    Raises:
        InputError: A path does not exist, there is no image, or two results would have one name.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            pairs = [(file.relative_to(path).with_suffix(""), file) for file in folder_images(path)]
        elif path.is_file():
            pairs = [(Path(path.stem), path)]
        else:
            raise InputError(f"{path}: no such file or folder")
        for name, file in pairs:
            if name in found:
                raise InputError(f"{file}: would overwrite the results of {found[name]}")
            found[name] = file
    return found
