"""The MVTec-AD folder layout: finds images, pairs masks by name, assigns groups."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from autopatch.data.layout_hints import mask_hint
from autopatch.data.mvtec_layout import Layout
from autopatch.data.samples import GOOD, Sample, anomaly_types
from autopatch.data.walker import Listing
from autopatch.errors import InputError
from autopatch.files import StrPath


@dataclass(frozen=True)
class MVTecAD:
    """A `Dataset` in the MVTec-AD layout.

    Attributes:
        root: The folder.
        train: The good images, sorted by file name.
        test: The images of `test/good`, if any, then the images of each anomaly type; types and
            file names are sorted.
        notes: Skipped files and folders with the reason, one line each.
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
        """Finds the images in a folder and pairs each anomalous image with its mask.

        The layout is `train/good/*`, `test/good/*` (optional), `test/<type>/*` (none if there are
        no anomalous images) and `ground_truth/<type>/<stem>_mask.*` or `<stem>.*`. All images of a
        folder without `train` and `test` are good. A file is an image if its suffix is one
        of `IMAGE_SUFFIXES`, in any case. Everything else is skipped and listed in `notes`, except
        hidden files, system files, and files outside the image folders, such as `license.txt`. No
        image is decoded; see `check`.

        Args:
            root: The folder.
            group_regex: Regular expression to search for in every file name. The image's group is
                the first capture group, or the whole match if there is none.
            groups_csv: A CSV file with the columns `file,group`, one row per image; `file` is
                relative to `root`, with forward slashes.

        Raises:
            InputError: The folder does not have this layout, a folder in it cannot be read, an
                image has no mask, a mask has no image, or the groups cannot be read.
        """
        layout = Layout.of(root)
        train = tuple(Sample(path, GOOD) for path in layout.good.images)
        test = [Sample(path, GOOD) for path in layout.test_good.images] if layout.test_good else []
        for images in layout.types:
            test.extend(_pair(layout, images))
        _refuse_orphan_types(layout)
        dataset = cls(Path(root), train, tuple(test), layout.passed_over())
        return dataset.grouped(group_regex=group_regex, groups_csv=groups_csv)

    def grouped(
        self, *, group_regex: str | None = None, groups_csv: StrPath | None = None
    ) -> MVTecAD:
        """The same images with their groups, see `scan`; unchanged without arguments.

        Raises:
            InputError: Both arguments are given, or the groups cannot be read.
        """
        if group_regex is not None and groups_csv is not None:
            raise InputError("`group_regex` and `groups` are both given, expected at most one")
        if group_regex is not None:
            return self._with_groups(_group_by_regex(group_regex))
        if groups_csv is not None:
            return self._with_groups(_group_by_csv(self, Path(groups_csv)))
        return self

    def _with_groups(self, group: Callable[[Path], str]) -> MVTecAD:
        return replace(
            self,
            train=tuple(replace(sample, group=group(sample.image)) for sample in self.train),
            test=tuple(replace(sample, group=group(sample.image)) for sample in self.test),
        )


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise InputError(
                f"{path}: differs from {stems[path.stem].name} only in its suffix, expected "
                "different names, since masks are paired by name"
            )
        stems[path.stem] = path
    return stems


def _pair(layout: Layout, images: Listing) -> list[Sample]:
    """Pairs the images of one anomaly type with their masks."""
    kind = images.folder.name
    listing = layout.masks.get(kind)
    masks = _by_stem(listing.images) if listing else {}
    samples: list[Sample] = []
    for stem, path in _by_stem(images.images).items():
        mask = masks.get(f"{stem}_mask") or masks.get(stem)
        if mask is None:
            expected = layout.root.folder / "ground_truth" / kind / f"{stem}_mask.png"
            hint = mask_hint(path, images, listing, layout.root)
            raise InputError(f"{path}: no mask, expected {expected}{hint}")
        samples.append(Sample(path, kind, mask))
    orphans = set(masks.values()) - {sample.mask for sample in samples}
    if orphans:
        raise InputError(
            f"{min(orphans)}: a mask without an image, expected an image of that name in "
            f"{images.folder}"
        )
    return samples


def _refuse_orphan_types(layout: Layout) -> None:
    types = {listing.folder.name for listing in layout.types}
    for kind, listing in layout.masks.items():
        if kind not in types and (listing.images or listing.folders):
            raise InputError(
                f"{listing.folder}: masks without images, expected a folder "
                f"{layout.root.folder / 'test' / kind}"
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
                f"{file}: row {number} names {name!r}, which is not an image of {dataset.root}; "
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
        # utf-8-sig: spreadsheets write a byte order mark before the header.
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[field.strip() for field in row] for row in csv.reader(stream, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{file}: cannot be read as CSV with file,group ({reason})") from None
    if not rows:
        raise InputError(f"{file}: the file is empty, expected the header 'file,group'")
    return rows
