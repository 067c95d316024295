"""The MVTec-AD folder layout: images found, masks paired by name, groups assigned."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autopatch.data.samples import GOOD, Sample, anomaly_types
from autopatch.errors import InputError
from autopatch.files import StrPath

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""File suffixes, in lower case, by which an image is recognized."""


@dataclass(frozen=True)
class MVTecAD:
    """A `Dataset` in the MVTec-AD layout.

    Attributes:
        root: The folder.
        train: The images of `train/good`, sorted by file name.
        test: The images of `test/good` (there may be none), then those of each anomaly type;
            types and file names sorted.
        notes: What was passed over, and why, one line each.
    """

    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """The anomaly types, sorted."""
        return anomaly_types(self.test)

    @classmethod
    def scan(
        cls,
        root: StrPath,
        *,
        group_regex: str | None = None,
        groups_csv: StrPath | None = None,
    ) -> MVTecAD:
        """Finds the images of a folder and pairs each anomalous one with its mask.

        The layout is `train/good/*`, `test/good/*` (may be absent), `test/<type>/*` and
        `ground_truth/<type>/<stem>_mask.*` or `<stem>.*`. Files are images by their suffix
        (`IMAGE_SUFFIXES`, any case). Hidden files, other files, folders inside these folders
        and `ground_truth/good` are not looked at. Nothing is decoded; see `check`.

        Args:
            root: The folder.
            group_regex: Searched in every file name; its first capture group (the whole match if
                it has none) is the image's group.
            groups_csv: A CSV file with the columns `file,group`, one row for every image; `file`
                is relative to `root`, with forward slashes.

        Raises:
            InputError: The folder does not have this layout, an image has no mask or a mask no
                image, or the groups cannot be read.
        """
        root = Path(root)
        _require_layout(root)
        train = tuple(Sample(path, GOOD) for path in _images(root / "train" / GOOD))
        test: list[Sample] = []
        good = root / "test" / GOOD
        if good.is_dir():
            test.extend(Sample(path, GOOD) for path in _list_images(good))
        types = [folder for folder in _folders(root / "test") if folder.name != GOOD]
        if not types:
            raise InputError(
                f"{root / 'test'}: no folder of anomalous images, expected test/<type>"
            )
        for folder in types:
            test.extend(_pair(root, folder))
        _refuse_orphan_types(root, {folder.name for folder in types})

        dataset = cls(root, train, tuple(test))
        if group_regex is not None and groups_csv is not None:
            raise InputError("`group_regex` and `groups` are both given, expected at most one")
        if group_regex is not None:
            return dataset._with_groups(_group_by_regex(group_regex))
        if groups_csv is not None:
            return dataset._with_groups(_group_by_csv(dataset, Path(groups_csv)))
        return dataset

    def _with_groups(self, group: Callable[[Path], str]) -> MVTecAD:
        return replace(
            self,
            train=tuple(replace(sample, group=group(sample.image)) for sample in self.train),
            test=tuple(replace(sample, group=group(sample.image)) for sample in self.test),
        )


def _visible(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.iterdir() if not path.name.startswith(".")),
        key=lambda path: path.name,
    )


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _list_images(folder: Path) -> list[Path]:
    named = [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    for path in named:
        if not path.exists():
            raise InputError(f"{path}: a link to a file that does not exist, expected an image")
    return [path for path in named if path.is_file()]


def _images(folder: Path) -> list[Path]:
    images = _list_images(folder)
    if not images:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{folder}: no image in the folder, expected files named {suffixes}")
    return images


def _require_layout(root: Path) -> None:
    if not root.exists():
        raise InputError(f"{root}: no such folder, expected a data set in the MVTec-AD layout")
    if not root.is_dir():
        raise InputError(f"{root}: not a folder, expected a data set in the MVTec-AD layout")
    if not _visible(root):
        raise InputError(f"{root}: the folder is empty, expected train/good and test/<type>")
    if not (root / "train" / GOOD).is_dir():
        inner = [path.name for path in _folders(root) if (path / "train" / GOOD).is_dir()]
        hint = f", as in {root / inner[0]}: name one category's folder" if inner else ""
        raise InputError(f"{root}: no folder train/good, expected one with good images{hint}")
    if not (root / "test").is_dir():
        raise InputError(f"{root}: no folder test, expected test/<type> with anomalous images")


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise InputError(
                f"{path}: has the name of {stems[path.stem].name} but for its suffix, "
                "expected names that differ, since masks are paired by name"
            )
        stems[path.stem] = path
    return stems


def _pair(root: Path, folder: Path) -> list[Sample]:
    """Pairs the images of one anomaly type with their masks."""
    truth = root / "ground_truth" / folder.name
    masks = _by_stem(_list_images(truth)) if truth.is_dir() else {}
    samples: list[Sample] = []
    for stem, path in _by_stem(_images(folder)).items():
        mask = masks.get(f"{stem}_mask") or masks.get(stem)
        if mask is None:
            raise InputError(f"{path}: no mask, expected {truth / f'{stem}_mask.png'}")
        samples.append(Sample(path, folder.name, mask))
    orphans = set(masks.values()) - {sample.mask for sample in samples}
    if orphans:
        raise InputError(
            f"{min(orphans)}: a mask without an image, expected an image of that name in {folder}"
        )
    return samples


def _refuse_orphan_types(root: Path, types: set[str]) -> None:
    truth = root / "ground_truth"
    if not truth.is_dir():
        return
    for folder in _folders(truth):
        if folder.name not in types | {GOOD} and _list_images(folder):
            raise InputError(
                f"{folder}: masks without images, expected a folder {root / 'test' / folder.name}"
            )


def _group_by_regex(group_regex: str) -> Callable[[Path], str]:
    try:
        pattern = re.compile(group_regex)
    except re.error as error:
        raise InputError(
            f"`group_regex` is {group_regex!r}, which is not a regular expression ({error})"
        ) from None

    def group(path: Path) -> str:
        match = pattern.search(path.name)
        found: str | None = match and (match.group(1) if pattern.groups else match.group())
        if not found:
            raise InputError(
                f"{path}: no group, expected `group_regex` {group_regex!r} to match the file name"
            )
        return found

    return group


def _group_by_csv(dataset: MVTecAD, file: Path) -> Callable[[Path], str]:
    known = {
        sample.image.relative_to(dataset.root).as_posix() for sample in dataset.train + dataset.test
    }
    groups: dict[str, str] = {}
    for number, row in enumerate(_read_csv(file), start=1):
        if number == 1:
            if row != ["file", "group"]:
                raise InputError(f"{file}: header {','.join(row)!r}, expected 'file,group'")
            continue
        if not row:
            continue
        if len(row) != 2 or not all(row):
            raise InputError(f"{file}: row {number} is {','.join(row)!r}, expected a file, a group")
        name, group_name = row
        if name not in known:
            raise InputError(
                f"{file}: row {number} names {name!r}, which is no image of {dataset.root}; "
                "expected a path relative to it with forward slashes"
            )
        if groups.setdefault(name, group_name) != group_name:
            raise InputError(f"{file}: row {number} gives {name!r} a second group")
    missing = known - groups.keys()
    if missing:
        raise InputError(
            f"{file}: no group for {len(missing)} of {len(known)} images ({min(missing)!r} first), "
            "expected a row for each"
        )
    return lambda path: groups[path.relative_to(dataset.root).as_posix()]


def _read_csv(file: Path) -> list[list[str]]:
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front of the header.
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[field.strip() for field in row] for row in csv.reader(stream, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{file}: cannot be read as CSV with file,group ({reason})") from None
    if not rows:
        raise InputError(f"{file}: the file is empty, expected the header 'file,group'")
    return rows
