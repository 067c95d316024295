"""Finds image files in folders and reports the files that it skipped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopatch.errors import InputError, reason
from autopatch.files import StrPath
from autopatch.words import by_count, counted, first_names

_FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),
    "MPO": (".mpo",),
    "PCX": (".pcx",),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pfm", ".pgm", ".pnm", ".ppm"),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "SUN": (".ras",),
    "TGA": (".icb", ".tga", ".vda", ".vst"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Suffixes of formats for photographs and masks, by Pillow's name of the format. Formats for icons,
drawings, documents, scientific data and video are left out."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
"""Suffixes of image files, in lower case."""

_SYSTEM_NAMES = frozenset(
    {
        "#recycle",
        "$recycle.bin",
        "@eadir",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
"""Names, in lower case, of files and folders that operating systems and file servers create."""


@dataclass(frozen=True)
class Listing:
    """The contents of one folder, without hidden and system files. Each list is sorted by name.

    Attributes:
        folder: The folder.
        images: Files with a suffix of `IMAGE_SUFFIXES`, in any case.
        folders: Subfolders, and links to folders.
        others: Files with another suffix, and anything that is neither a file nor a folder.
    """

    folder: Path
    images: tuple[Path, ...]
    folders: tuple[Path, ...]
    others: tuple[Path, ...]


@dataclass(frozen=True)
class Walk:
    """The images of a folder and of all its subfolders.

    Attributes:
        images: The image files, sorted.
        notes: Skipped files and folders with the reason, one line each.
    """

    images: tuple[Path, ...]
    notes: tuple[str, ...]


def list_folder(folder: StrPath) -> Listing:
    """Lists one folder.

    Raises:
        InputError: The folder does not exist or cannot be read, or it holds a broken link.
    """
    folder = Path(folder)
    images, folders, others = [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(path)
                elif not entry.is_file():
                    if entry.is_symlink() and not path.exists():
                        raise InputError(
                            f"{path}: a link to a file or folder that does not exist; remove the "
                            "link, or put back what it leads to"
                        )
                    others.append(path)
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    images.append(path)
                else:
                    others.append(path)
    except OSError as error:
        raise _unreadable(folder, error) from None
    return Listing(folder, tuple(images), tuple(folders), tuple(others))


def walk(folder: StrPath) -> Walk:
    """Lists the images in a folder and all its subfolders.

    Links to folders are followed. Each folder is read once. If both the folder and a link to it lie
    below `folder`, the images have the folder's own path.

    Raises:
        InputError: See `list_folder`.
    """
    start = Path(folder)
    images: list[Path] = []
    others: list[Path] = []
    repeated: list[Path] = []
    folders, links = [start], list[Path]()
    # A link to a parent folder would lead back to this folder.
    seen = {_identity(above) for above in Path(os.path.realpath(start)).parents}
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        identity = _identity(current)
        if identity in seen:
            repeated.append(current)
            continue
        seen.add(identity)
        listing = list_folder(current)
        images += listing.images
        others += listing.others
        for inner in listing.folders:
            (links if inner.is_symlink() else folders).append(inner)
    notes = []
    if others:
        notes.append(f"{start}: {others_passed_over(sorted(others), start)}")
    if repeated:
        notes.append(
            f"{start}: skipped {counted(len(repeated), 'link')} to "
            + by_count(
                len(repeated),
                "a folder that was read already or contains it",
                "folders that were read already or contain them",
            )
            + f" ({_names(sorted(repeated), start)})"
        )
    return Walk(tuple(sorted(images)), tuple(notes))


def others_passed_over(others: Sequence[Path], folder: Path) -> str:
    """Says which files in a folder were skipped because they are not images."""
    return (
        f"skipped {counted(len(others), 'file')} without the suffix of an image format that "
        f"can be read ({_names(others, folder)})"
    )


def _names(paths: Sequence[Path], folder: Path) -> str:
    return first_names([path.relative_to(folder).as_posix() for path in paths])


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped by its name: hidden, or of the operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from None
    return status.st_dev, status.st_ino


def _unreadable(folder: Path, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{folder}: no such folder")
    if isinstance(error, NotADirectoryError):
        return InputError(f"{folder}: not a folder")
    return InputError(f"{error.filename or folder}: cannot be read: {reason(error)}")
