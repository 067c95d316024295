"""Synthetic anomalies on disk: one image each, and the record of the folder that holds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopatch.data.samples import Sample
from autopatch.data.threads import in_threads
from autopatch.errors import InputError, one_line, reason
from autopatch.files import StrPath, restored_path, sha256_of, stored_path, write_json

RECORD = "anomalies.json"
"""Name of the file that lists the anomalies of a folder."""

_VERSION = 1


@dataclass(frozen=True)
class Anomaly:
    """A synthetic anomaly on a good image.

    Attributes:
        sample: Its image and mask. The type is the name of its kind, the group that of `source`.
        source: The good image.
        shot: The real anomalous image of a transplant, None for other kinds.
    """

    sample: Sample
    source: Sample
    shot: Sample | None = None


def write_record(
    folder: StrPath,
    anomalies: Sequence[Anomaly],
    settings: Mapping[str, Any],
    *,
    written_in: StrPath,
    root: StrPath | None = None,
) -> None:
    """Writes the record of anomalies, with the hashes of their files.

    Args:
        folder: The folder that will hold the anomalies; their paths lie in it.
        anomalies: The anomalies.
        settings: JSON values to store with them.
        written_in: The folder that holds the files now.
        root: Folder of the data set, see `load_anomalies`.

    Raises:
        InputError: A file cannot be read or written.
    """

    def entry(anomaly: Anomaly) -> dict[str, Any]:
        source, shot, mask = anomaly.source, anomaly.shot, anomaly.sample.mask
        assert mask is not None
        files = [path.relative_to(folder).as_posix() for path in (anomaly.sample.image, mask)]
        hashes = [sha256_of(Path(written_in, file)) for file in files]
        return {
            "kind": anomaly.sample.type,
            "image": files[0],
            "sha256": hashes[0],
            "mask": files[1],
            "mask_sha256": hashes[1],
            "source": _stored(source, root or folder),
            "shot": None if shot is None else _stored(shot, root or folder),
        }

    listed = in_threads(entry, anomalies)
    document = {"version": _VERSION, "settings": dict(settings), "anomalies": listed}
    write_json(Path(written_in, RECORD), document)


def load_anomalies(folder: StrPath, root: StrPath | None = None) -> tuple[Anomaly, ...]:
    """Reads the anomalies that `draw_anomalies` wrote, in their order.

    Args:
        folder: The folder.
        root: Folder of the data set, if the anomalies were drawn with one; it may have moved. If
            None, `folder` may have moved together with the good images.

    Raises:
        InputError: The record is missing or has another format, or a file of an image or a mask is
            missing or has changed.
    """
    entries = _entries(folder)

    def check(entry: Mapping[str, Any]) -> None:
        for file, sha256 in (("image", "sha256"), ("mask", "mask_sha256")):
            path = Path(folder, entry[file])
            if not path.is_file():
                raise InputError(f"{path}: missing, expected the file that {RECORD} lists")
            if sha256_of(path) != entry[sha256]:
                raise InputError(f"{path}: changed since it was drawn; draw the anomalies again")

    try:
        anomalies = tuple(_anomaly(entry, folder, root or folder) for entry in entries)
        in_threads(check, entries)
    except (KeyError, TypeError) as error:
        raise _malformed(folder, error) from error
    return anomalies


def anomalies_digest(folder: StrPath) -> str:
    """A hash of all anomalies of a folder: their kinds, images, masks and order.

    It is computed from the record alone; `load_anomalies` compares the record with the files.

    Returns:
        SHA-256 as 64 hexadecimal digits.

    Raises:
        InputError: The record is missing or has another format.
    """
    try:
        lines = [
            f"{entry['kind']} {entry['sha256']} {entry['mask_sha256']}\n"
            for entry in _entries(folder)
        ]
    except (KeyError, TypeError) as error:
        raise _malformed(folder, error) from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _entries(folder: StrPath) -> Sequence[Mapping[str, Any]]:
    path = Path(folder, RECORD)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {reason(error)}, expected a folder of synthetic anomalies"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({one_line(error)})") from error
    try:
        version = document["version"]
        if version != _VERSION:
            raise InputError(f"{path}: version {version!r}, expected {_VERSION}")
        entries: Sequence[Mapping[str, Any]] = document["anomalies"]
    except (KeyError, TypeError) as error:
        raise _malformed(folder, error) from error
    return entries


def _anomaly(entry: Mapping[str, Any], folder: StrPath, base: StrPath) -> Anomaly:
    source = _restored(entry["source"], base)
    image, mask = (Path(folder, entry[file]) for file in ("image", "mask"))
    shot = None if entry["shot"] is None else _restored(entry["shot"], base)
    return Anomaly(Sample(image, entry["kind"], mask, source.group), source, shot)


def _stored(sample: Sample, base: StrPath) -> dict[str, Any]:
    return {
        "image": stored_path(sample.image, base),
        "type": sample.type,
        "mask": None if sample.mask is None else stored_path(sample.mask, base),
        "group": sample.group,
    }


def _restored(entry: Mapping[str, Any], base: StrPath) -> Sample:
    mask = entry["mask"]
    return Sample(
        image=restored_path(entry["image"], base),
        type=entry["type"],
        mask=None if mask is None else restored_path(mask, base),
        group=entry["group"],
    )


def _malformed(folder: StrPath, error: Exception) -> InputError:
    return InputError(
        f"{Path(folder, RECORD)}: {one_line(error)}, expected the record of `draw_anomalies`"
    )
