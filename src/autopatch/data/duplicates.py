"""Images of a data set that show the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autopatch.data.samples import Dataset, Sample, short_path
from autopatch.words import by_count, counted, first_names


@dataclass(frozen=True)
class Duplicates:
    """Images of a data set that show the same picture, and the groups that keep them together.

    Attributes:
        contradictions: Anomalous images that show the same picture as a good one, one line each.
        warnings: Other repeated pictures, one line for each pair of folders.
        groups: New group by image, for every image whose group changes so that repeated pictures
            share one. Existing groups are joined, never divided.
    """

    contradictions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    groups: Mapping[Path, str] = field(default_factory=dict)


def picture_digest(pixels: npt.NDArray[Any]) -> bytes:
    """SHA-256 of an image's shape, dtype and values. It does not depend on the compression."""
    digest = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def find_duplicates(dataset: Dataset, digests: Mapping[Path, bytes]) -> Duplicates:
    """Finds the images that show the same picture.

    Args:
        dataset: The images.
        digests: `picture_digest` by image; images without one are left out.
    """
    samples = [*dataset.train, *dataset.test]
    by_digest: dict[bytes, list[Sample]] = {}
    for sample in samples:
        if sample.image in digests:
            by_digest.setdefault(digests[sample.image], []).append(sample)
    alike = [same for same in by_digest.values() if len(same) > 1]
    contradictions, pairs = [], dict[tuple[str, str], list[str]]()
    for same in alike:
        good = [sample for sample in same if not sample.label]
        anomalous = [sample for sample in same if sample.label]
        if good:
            contradictions += [
                f"{sample.image}: shows the same picture as the good image {good[0].image}, "
                "expected an image to be either good or anomalous"
                for sample in anomalous
            ]
        for part in (good, anomalous):
            for other in part[1:]:
                names = tuple(short_path(each.image, dataset.root) for each in (part[0], other))
                folders = _folder(names[0]), _folder(names[1])
                pairs.setdefault(folders, []).append(" = ".join(names))
    return Duplicates(
        tuple(contradictions),
        tuple(_warning(*folders, names) for folders, names in pairs.items()),
        _joined_groups(samples, alike, dataset.root),
    )


def with_groups(dataset: Dataset, groups: Mapping[Path, str]) -> Dataset:
    """The data set with the groups of some images replaced."""
    return _Regrouped(
        dataset.root,
        _with_groups(dataset.train, groups),
        _with_groups(dataset.test, groups),
        tuple(dataset.types),
        tuple(dataset.notes),
    )


@dataclass(frozen=True)
class _Regrouped:
    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    types: tuple[str, ...]
    notes: tuple[str, ...]


def _with_groups(samples: Iterable[Sample], groups: Mapping[Path, str]) -> tuple[Sample, ...]:
    return tuple(
        replace(sample, group=groups.get(sample.image, sample.group)) for sample in samples
    )


def _warning(folder: str, other: str, names: Sequence[str]) -> str:
    where = f"within {folder}" if folder == other else f"of {folder} and {other}"
    verb = by_count(len(names), "shows", "show")
    return (
        f"{counted(len(names), 'pair')} of images {where} {verb} the same picture "
        f"({first_names(names)}); remove one of the two; the random split never gives them two "
        "roles"
    )


def _joined_groups(
    samples: Iterable[Sample], alike: Iterable[Sequence[Sample]], root: Path
) -> dict[Path, str]:
    """New group by image, for every image whose group changes when repeated pictures share one."""
    # Each group, and each image without a group, starts as its own set.
    joined: dict[str | Path, set[str | Path]] = {}
    for same in alike:
        keys = {_key(sample) for sample in same}
        union = set[str | Path]().union(*(joined.get(key, {key}) for key in keys))
        joined |= dict.fromkeys(union, union)
    names: dict[str | Path, str] = {}
    for union in {id(union): union for union in joined.values()}.values():
        groups = [key for key in union if isinstance(key, str)]
        images = [short_path(key, root) for key in union if isinstance(key, Path)]
        names |= dict.fromkeys(union, min(groups or images))
    return {
        sample.image: names[key]
        for sample in samples
        if (key := _key(sample)) in names and names[key] != sample.group
    }


def _key(sample: Sample) -> str | Path:
    return sample.image if sample.group is None else sample.group


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
