"""Images in folders of any layout, and the names of their results."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from autopatch.data.walker import walk
from autopatch.errors import InputError
from autopatch.files import StrPath, absolute_path, path_kind

logger = logging.getLogger(__name__)

RESULT_SUFFIXES = (".png", ".npy")
"""Suffixes of the files that results are written to."""


def folder_images(folder: StrPath) -> list[Path]:
    """Lists the images in a folder and all its subfolders, sorted; see `walk`.

    Skipped files and folders are logged as warnings, except hidden and system files.

    Raises:
        InputError: There is no image, or a folder cannot be read.
    """
    found = walk(folder)
    for note in found.notes:
        logger.warning(note)
    if not found.images:
        raise InputError(f"{folder}: no image in this folder")
    return list(found.images)


def folder_of_good(folder: StrPath) -> list[Path]:
    """Lists the images in a folder of good images and all its subfolders, see `folder_images`.

    Raises:
        InputError: The folder holds a whole data set, so also anomalous images; or see
            `folder_images`.
    """
    for part in (Path("train", "good"), Path("ground_truth")):
        if path_kind(Path(folder, part)) == "folder":
            raise InputError(
                f"{folder}: contains {part}, so it is a whole data set; expected only good "
                f"images, such as {Path(folder, 'train', 'good')}"
            )
    return folder_images(folder)


def named_images(paths: StrPath | Iterable[StrPath]) -> dict[Path, Path]:
    """Lists images and gives each a name for its results.

    The name is the image's path relative to the deepest folder that holds all of `paths` (a folder
    holds itself), without the suffix. If two images differ only in their suffix, or a file of
    results would have the name of a folder, all names keep the suffix. For example, "a/1.png"
    becomes "1", the folder "a" becomes "1" and "2", and "a/1.png" with "b/1.png" become "a/1" and
    "b/1". An image that is given twice counts once.

    Args:
        paths: One or many image files, and folders to search for images, see `folder_images`.

    Returns:
        The images by name.

    Raises:
        InputError: No path is given, a path does not exist, a folder has no image or cannot be
            read, or two images would get the same name.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise InputError("`images` is empty, expected image files or folders")
    files: dict[Path, Path] = {}
    tops: list[Path] = []
    for path in map(Path, listed):
        kind = path_kind(path)
        if kind == "folder":
            tops.append(absolute_path(path))
            images = folder_images(path)
        elif kind == "file":
            tops.append(absolute_path(path).parent)
            images = [path]
        else:
            raise InputError(f"{path}: no such file or folder")
        for image in images:
            first = files.setdefault(absolute_path(image), image)
            # Equal normalized paths may be two files: ".." after a link leaves the link's target.
            if first != image and not first.samefile(image):
                raise InputError(f"{image}: would overwrite the results of {first}")
    common = os.path.commonpath(tops)
    whole = {file.relative_to(common): image for file, image in files.items()}
    short = {name.with_suffix(""): image for name, image in whole.items()}
    if len(short) == len(whole) and not _clash(short):
        return short
    if clash := _clash(whole):
        raise InputError(
            f"{whole[clash]}: its results would have the name of a folder; rename the folder"
        )
    return whole


def _clash(names: Iterable[Path]) -> Path | None:
    """A name whose file of results would be a folder of other results."""
    folders = {folder for name in names for folder in name.parents}
    return next(
        (n for n in names for suffix in RESULT_SUFFIXES if Path(f"{n}{suffix}") in folders), None
    )
