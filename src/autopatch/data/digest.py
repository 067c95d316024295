"""Hashes of a split's files, and a description of what has changed in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from autopatch.data.duplicates import picture_digest
from autopatch.data.reading import ImageInput, as_images, full_depth
from autopatch.data.samples import relative_path
from autopatch.data.splits import Split
from autopatch.data.threads import in_threads
from autopatch.errors import InputError
from autopatch.files import StrPath, sha256_of
from autopatch.words import by_count, counted, first_names


@dataclass(frozen=True)
class ManifestEntry:
    """A sample in a role.

    Attributes:
        role: One of `autopatch.data.splits.ROLES`.
        path: The image relative to the folder of the data set, with forward slashes.
        sha256: Hash of the image file, None if it is missing.
        mask: The mask, relative like `path`; None if the sample has none.
        mask_sha256: Hash of the mask file, None if it is missing or the sample has no mask.
        type: Type of the sample.
        group: Group of the sample, None if unknown.
    """

    role: str
    path: str
    sha256: str | None
    mask: str | None
    mask_sha256: str | None
    type: str
    group: str | None


@dataclass(frozen=True)
class Manifest:
    """The files of a split: role, hash, mask, type and group of each image.

    Attributes:
        entries: One for each sample of each role, sorted and without repetition.
    """

    entries: tuple[ManifestEntry, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(set(self.entries), key=_canonical))
        object.__setattr__(self, "entries", ordered)

    @classmethod
    def of(cls, split: Split, root: StrPath) -> Manifest:
        """Hashes the files of a split. Each file is read once; a missing file has no hash.

        Args:
            split: The roles.
            root: Folder of the data set.

        Raises:
            InputError: A file does not lie under `root`, or exists but cannot be read.
        """
        samples = [(role, sample) for role, part in split.roles.items() for sample in part]
        files = sorted(
            {file for _, sample in samples for file in (sample.image, sample.mask) if file}
        )
        names = {file: relative_path(file, root) for file in files}
        digests = dict(zip(files, in_threads(_digest_of, files), strict=True))
        return cls(
            tuple(
                ManifestEntry(
                    role=role,
                    path=names[sample.image],
                    sha256=digests[sample.image],
                    mask=None if sample.mask is None else names[sample.mask],
                    mask_sha256=None if sample.mask is None else digests[sample.mask],
                    type=sample.type,
                    group=sample.group,
                )
                for role, sample in samples
            )
        )

    @property
    def digest(self) -> str:
        """One SHA-256 over all entries, as 64 hexadecimal digits."""
        lines = [_canonical(entry) for entry in self.entries]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def differences(self, now: Manifest) -> str | None:
        """Describes on one line how the files have changed; None if they have not.

        Args:
            now: The later manifest; `self` is the earlier one.

        Returns:
            Each kind of difference with up to three files, such as "2 images were changed:
            test/dent/003.png, test/dent/007.png; 1 mask is missing: ground_truth/dent/001.png".
        """
        earlier, later = _by_image(self), _by_image(now)
        if self.entries == now.entries:
            return None
        found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
        for path in sorted(earlier.keys() | later.keys()):
            for kind, file in _compare(path, earlier.get(path), later.get(path)):
                found[kind].append(file)
        said = [_KINDS[kind](sorted(set(files))) for kind, files in found.items() if files]
        return "; ".join(said) or "other files are missing than before"

    def to_json(self) -> dict[str, Any]:
        """Converts the manifest to JSON values."""
        return {"entries": [asdict(entry) for entry in self.entries]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Manifest:
        """Reads the document of `to_json`.

        Raises:
            InputError: The document is not a manifest.
        """
        try:
            entries = tuple(ManifestEntry(**entry) for entry in document["entries"])
            for entry in entries:
                for name, value in asdict(entry).items():
                    if not isinstance(value, str) and (value is not None or name in _NEVER_NONE):
                        raise TypeError(f"{name} is {value!r}")
        except KeyError as error:
            raise InputError(
                f"manifest: no entry {error}, expected the output of Manifest.to_json"
            ) from None
        except TypeError as error:
            raise InputError(
                f"manifest: {error}, expected the output of Manifest.to_json"
            ) from None
        return cls(entries)


def pixels_digest(images: ImageInput | Iterable[ImageInput]) -> str:
    """SHA-256 of one or many images, as 64 hexadecimal digits. Order, paths and file formats do not
    matter.

    Raises:
        InputError: See `image_digests`.
    """
    return joint_digest(image_digests(images))


def joint_digest(digests: Iterable[bytes]) -> str:
    """The `pixels_digest` of images from their `image_digests`."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def image_digests(images: ImageInput | Iterable[ImageInput], exif: str = "apply") -> list[bytes]:
    """SHA-256 of the picture of each image: of its shape and its pixels, which are 8-bit RGB, or
    16-bit values for an image with 16 bits per channel. Equal pictures have equal hashes, whether
    they are in memory or in files of any format.

    Args:
        images: One or many images, see `as_images`.
        exif: See `Reading`.

    Raises:
        InputError: `as_images` or `to_pil` refuses an image.
    """

    def digest(numbered: tuple[int, ImageInput]) -> bytes:
        index, image = numbered
        name = f"images[{index}]"
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
        return picture_digest(full_depth(image, name, exif))

    return in_threads(digest, enumerate(as_images(images)))


_NEVER_NONE = frozenset({"role", "path", "type"})


@dataclass(frozen=True)
class _Image:
    """All entries of one image; there may be one for each role."""

    roles: frozenset[str]
    sha256: frozenset[str | None]
    masks: frozenset[tuple[str, str | None]]
    types: frozenset[str]
    groups: frozenset[str | None]


def _by_image(manifest: Manifest) -> dict[str, _Image]:
    """Collects the entries by image. Images whose file is missing are left out."""
    entries: dict[str, list[ManifestEntry]] = {}
    for entry in manifest.entries:
        if entry.sha256 is not None:
            entries.setdefault(entry.path, []).append(entry)
    return {
        path: _Image(
            roles=frozenset(entry.role for entry in of_image),
            sha256=frozenset(entry.sha256 for entry in of_image),
            masks=frozenset(
                (entry.mask, entry.mask_sha256) for entry in of_image if entry.mask is not None
            ),
            types=frozenset(entry.type for entry in of_image),
            groups=frozenset(entry.group for entry in of_image),
        )
        for path, of_image in entries.items()
    }


_Difference: TypeAlias = tuple[str, str]  # kind, file


def _compare(path: str, earlier: _Image | None, later: _Image | None) -> list[_Difference]:
    if earlier is None or later is None:
        return [("image missing" if later is None else "image new", path)]
    found = [
        (kind, path)
        for kind, was, now in (
            ("image changed", earlier.sha256, later.sha256),
            ("role", earlier.roles, later.roles),
            ("type", earlier.types, later.types),
            ("group", earlier.groups, later.groups),
        )
        if was != now
    ]
    was = {mask: digest for mask, digest in earlier.masks if digest is not None}
    now = {mask: digest for mask, digest in later.masks if digest is not None}
    gone, come = sorted(was.keys() - now.keys()), sorted(now.keys() - was.keys())
    renamed = [mask for mask in gone if was[mask] in {now[new] for new in come}]
    if renamed:
        come = [mask for mask in come if now[mask] not in {was[old] for old in renamed}]
    found += [("mask renamed", mask) for mask in renamed]
    found += [("mask missing", mask) for mask in gone if mask not in renamed]
    found += [("mask new", mask) for mask in come]
    found += [("mask changed", mask) for mask in was.keys() & now.keys() if was[mask] != now[mask]]
    return found


def _said(noun: str, one: str, many: str, before: str = "") -> Callable[[list[str]], str]:
    def say(files: list[str]) -> str:
        count = len(files)
        return f"{before}{counted(count, noun)} {by_count(count, one, many)}: {first_names(files)}"

    return say


_KINDS = {
    "image missing": _said("image", "is missing", "are missing"),
    "image new": _said("image", "is new", "are new"),
    "image changed": _said("image", "was changed", "were changed"),
    "mask missing": _said("mask", "is missing", "are missing"),
    "mask new": _said("mask", "is new", "are new"),
    "mask changed": _said("mask", "was changed", "were changed"),
    "mask renamed": _said("mask", "was renamed", "were renamed"),
    "role": _said("image", "has another role", "have another role"),
    "type": _said("image", "was changed", "was changed", before="the type of "),
    "group": _said("image", "was changed", "was changed", before="the group of "),
}


def _canonical(entry: ManifestEntry) -> str:
    """An entry as one line of JSON: its fields in order."""
    return json.dumps(list(asdict(entry).values()))


def _digest_of(file: Path) -> str | None:
    return sha256_of(file) if file.is_file() else None
