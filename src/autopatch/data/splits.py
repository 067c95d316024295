"""Which image plays which role: fit, search validation, threshold calibration, test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autopatch.data.mvtec import GOOD, MVTecAD, Sample
from autopatch.errors import InputError, one_line

PROTOCOLS = ("random", "autopatch")
"""The orders `make_split` knows."""

_HOLDOUT_PERCENT = 15
_CALIBRATION_PERCENT = 20
_TEST_PERCENT = 20
_MIN_IMAGES = 2
_ROLES = ("fit", "holdout", "calibration", "validation", "reserved_unused", "test")


@dataclass(frozen=True)
class Split:
    """The roles of a data set's images.

    The search is scored on `holdout` and `validation`; `test` is touched by nothing before the
    final evaluation.

    Attributes:
        protocol: One of `PROTOCOLS`.
        seed: Seed of the random order; without effect for the protocol `"autopatch"`.
        shots: Number of validation images of each anomaly type.
        reserve: Number of images of each anomaly type kept out of `test`.
        fit: Good images from which the memory bank is built.
        holdout: Good images of the search's validation set.
        calibration: Good images from which the threshold is set.
        validation: Anomalous images of the search's validation set: types sorted, within a type
            in the split's order, so that more shots only add images.
        reserved_unused: The other images of the reserve, in the same order.
        test: Good and anomalous images of the final evaluation.
        notes: What was done otherwise than asked or expected, one line each.
    """

    protocol: str
    seed: int
    shots: int
    reserve: int
    fit: tuple[Sample, ...]
    holdout: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    reserved_unused: tuple[Sample, ...]
    test: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    def images(self) -> list[Path]:
        """All images that have a role, each once, sorted."""
        return sorted({sample.path for role in _ROLES for sample in getattr(self, role)})

    def to_json(self, root: Path) -> dict[str, Any]:
        """Gives the split as JSON values, with paths relative to `root`.

        Raises:
            InputError: An image does not lie under `root`.
        """

        def relative(path: Path) -> str:
            try:
                return path.relative_to(root).as_posix()
            except ValueError:
                raise InputError(f"{path}: not under {root}, the folder of the split") from None

        document: dict[str, Any] = {
            "protocol": self.protocol,
            "seed": self.seed,
            "shots": self.shots,
            "reserve": self.reserve,
            "notes": list(self.notes),
        }
        for role in _ROLES:
            document[role] = [
                {
                    "path": relative(sample.path),
                    "type": sample.type,
                    "mask": None if sample.mask is None else relative(sample.mask),
                    "group": sample.group,
                }
                for sample in getattr(self, role)
            ]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any], root: Path) -> Split:
        """Reads what `to_json` gave.

        Args:
            document: The JSON values.
            root: Folder of the data set, which may have moved.

        Raises:
            InputError: The document is not a split, or a file of it is missing under `root`.
        """
        root = Path(root)
        try:
            roles = {
                role: tuple(
                    Sample(
                        path=root / entry["path"],
                        type=str(entry["type"]),
                        mask=None if entry["mask"] is None else root / entry["mask"],
                        group=entry["group"],
                    )
                    for entry in document[role]
                )
                for role in _ROLES
            }
            split = cls(
                protocol=str(document["protocol"]),
                seed=int(document["seed"]),
                shots=int(document["shots"]),
                reserve=int(document["reserve"]),
                notes=tuple(str(note) for note in document["notes"]),
                **roles,
            )
        except KeyError as error:
            raise InputError(f"split: no entry {error}, expected what Split.to_json gave") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"split: {error}, expected what Split.to_json gave") from None
        files = {path for role in _ROLES for s in roles[role] for path in (s.path, s.mask) if path}
        missing = sorted(path for path in files if not path.is_file())
        if missing:
            raise InputError(
                f"{missing[0]}: missing, like {len(missing) - 1} others of the {len(files)} files "
                "of the split; expected the data set it was made from"
            )
        return split


def make_split(
    dataset: MVTecAD,
    *,
    shots: int,
    reserve: int = 4,
    seed: int = 0,
    protocol: str = "random",
    legacy_order: Path | None = None,
) -> Split:
    """Assigns a role to each image.

    The first `reserve` images of each anomaly type, in the split's order, never lie in the test
    part, and the first `shots` of them are the validation anomalies: test results with different
    shots compare.

    Protocol `"random"`: the order is drawn from `seed`, and is an order of groups where these are
    known. Groups are never divided: the reserve then takes whole groups until it has `reserve`
    images of each type, an image of a reserved group (good or of another type) is in no test
    part, and a `train/good` image whose group also lies in the test folder is left out. Of the
    n images of `train/good` that remain, 15 % are hold-out, 20 % calibration (each rounded to the
    nearest image, at least 2, and up to the end of a group), and the rest, at least 2, is fit.
    Without `test/good` a further 20 % are the good images of the test part.

    Protocol `"autopatch"`: the published order, sorted by file name unless `legacy_order` says
    otherwise. With n images in `test/good`, the first n of `train/good` are hold-out and the rest
    is fit; calibration uses the hold-out images again, since the published split has no part for
    it.

    Args:
        dataset: What `MVTecAD.scan` found.
        shots: Validation images of each anomaly type, 0 to `reserve`.
        reserve: Images of each anomaly type that are kept out of the test part.
        seed: Seed of the random order, 0 to 2**32 - 1.
        protocol: `"random"` or `"autopatch"`.
        legacy_order: For the protocol `"autopatch"` a text file with the file names of
            `train/good`, one a line, in the order to use instead of the sorted one. The published
            code took the order of the directory, which differs between file systems.

    Raises:
        InputError: An argument is out of range, there are too few images for a role, groups are
            given with the protocol `"autopatch"`, or a legacy order without it, or the order does
            not name each image of `train/good` once.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: {protocol!r}, expected {' or '.join(PROTOCOLS)}")
    for name, value in (("shots", shots), ("reserve", reserve), ("seed", seed)):
        if value < 0:
            raise InputError(f"{name}: {value}, expected at least 0")
    if seed >= 2**32:
        raise InputError(f"seed: {seed}, expected at most {2**32 - 1}")
    if shots > reserve:
        raise InputError(f"shots: {shots}, expected at most the reserve of {reserve} images a type")
    for kind in dataset.types:
        count = sum(sample.type == kind for sample in dataset.test)
        if count < shots:
            raise InputError(
                f"shots: {shots}, but the type {kind!r} has {count} images, fewer than the shots"
            )
        if count <= reserve:
            raise InputError(
                f"reserve: {reserve}, but the type {kind!r} has {count} images, expected at least "
                f"{reserve + 1} so that one is left to test"
            )
    if protocol == "autopatch":
        train = dataset.train if legacy_order is None else _in_order(dataset, legacy_order)
        return _published_split(dataset, train, shots=shots, reserve=reserve, seed=seed)
    if legacy_order is not None:
        raise InputError(f"legacy_order: {legacy_order}, expected none with protocol {protocol!r}")
    return _random_split(dataset, shots=shots, reserve=reserve, seed=seed)


def _in_order(dataset: MVTecAD, order: Path) -> tuple[Sample, ...]:
    """The images of train/good in the order of a file of names."""
    try:
        names = order.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{order}: cannot be read: {one_line(error)}") from None
    samples = {sample.path.name: sample for sample in dataset.train}
    for number, name in enumerate(names, start=1):
        if name not in samples:
            raise InputError(
                f"{order}: line {number} is {name!r}, expected the name of an image of "
                f"{dataset.root / 'train' / GOOD}"
            )
        if name in names[: number - 1]:
            raise InputError(f"{order}: line {number} names {name!r} again, expected each once")
    missing = sorted(samples.keys() - set(names))
    if missing:
        raise InputError(
            f"{order}: lacks {missing[0]!r} and {len(missing) - 1} others of the {len(samples)} "
            f"images of {dataset.root / 'train' / GOOD}"
        )
    return tuple(samples[name] for name in names)


def _published_split(
    dataset: MVTecAD, train: Sequence[Sample], *, shots: int, reserve: int, seed: int
) -> Split:
    if any(sample.group is not None for sample in dataset.train + dataset.test):
        raise InputError("protocol: 'autopatch' with groups, expected 'random', which keeps them")
    count = sum(sample.type == GOOD for sample in dataset.test)
    if not 0 < count <= len(dataset.train) - _MIN_IMAGES:
        raise InputError(
            f"{dataset.root}: {count} images in test/good and {len(dataset.train)} in train/good, "
            "expected at least 1 in test/good and 2 more in train/good, since protocol "
            "'autopatch' holds as many out of train/good as test/good has"
        )
    holdout = tuple(train[:count])
    anomalies = [sample for sample in dataset.test if sample.type != GOOD]
    reserved = {
        kind: [sample for sample in anomalies if sample.type == kind][:reserve]
        for kind in dataset.types
    }
    return _with_reserve(
        Split(
            protocol="autopatch",
            seed=seed,
            shots=shots,
            reserve=reserve,
            fit=tuple(train[count:]),
            holdout=holdout,
            calibration=holdout,
            validation=(),
            reserved_unused=(),
            test=_without(dataset.test, _flatten(reserved.values())),
            notes=(
                "the published split has no calibration part: the threshold is set from the "
                f"{count} hold-out images, on which the search was scored too",
            ),
        ),
        reserved,
    )


def _random_split(dataset: MVTecAD, *, shots: int, reserve: int, seed: int) -> Split:
    notes: list[str] = []
    anomalies = [sample for sample in dataset.test if sample.type != GOOD]
    reserved_groups: set[str] = set()
    # One stream for the anomalies, one for the good images: neither order depends on the size of
    # the other part.
    order = _shuffled_groups(anomalies, np.random.default_rng((seed, 0)))
    for kind in dataset.types:
        reserved_groups |= _first_groups(order, kind, reserve)
    reserved = {
        kind: [
            sample
            for group in order
            for sample in group
            if sample.type == kind and _group(sample) in reserved_groups
        ]
        for kind in dataset.types
    }
    test = tuple(sample for sample in dataset.test if _group(sample) not in reserved_groups)
    for kind in dataset.types:
        if not any(sample.type == kind for sample in test):
            raise InputError(
                f"reserve: {reserve}, but whole groups of the type {kind!r} leave no image to "
                "test, expected smaller groups or a smaller reserve"
            )
    test_good = sum(sample.type == GOOD for sample in dataset.test)
    dropped = test_good - sum(sample.type == GOOD for sample in test)
    if dropped:
        notes.append(
            f"left out {dropped} of the {test_good} images of test/good: their group lies in the "
            "reserve of an anomaly type"
        )
        if dropped == test_good:
            raise InputError(
                f"{dataset.root / 'test' / GOOD}: the groups of all {dropped} images lie in the "
                "reserve of an anomaly type, expected one that does not"
            )

    test_groups = {_group(sample) for sample in dataset.test}
    train = [sample for sample in dataset.train if _group(sample) not in test_groups]
    left_out = len(dataset.train) - len(train)
    if left_out:
        notes.append(
            f"left out {left_out} of the {len(dataset.train)} images of train/good: their group "
            "also lies in the test folder"
        )
    percents = {"holdout": _HOLDOUT_PERCENT, "calibration": _CALIBRATION_PERCENT}
    if not test_good:
        percents["test"] = _TEST_PERCENT
    good = _assign_good(dataset, train, percents, np.random.default_rng((seed, 1)))
    if not test_good:
        notes.append(
            f"there is no image in test/good: {len(good['test'])} images of train/good are the "
            "good images of the test part"
        )
    return _with_reserve(
        Split(
            protocol="random",
            seed=seed,
            shots=shots,
            reserve=reserve,
            fit=good["fit"],
            holdout=good["holdout"],
            calibration=good["calibration"],
            validation=(),
            reserved_unused=(),
            test=good.get("test", ()) + test,
            notes=tuple(notes),
        ),
        reserved,
    )


def _assign_good(
    dataset: MVTecAD,
    train: Sequence[Sample],
    percents: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, tuple[Sample, ...]]:
    """Deals whole groups of good images to the roles of `percents`, and what is left to fit."""
    order = iter(_shuffled_groups(train, rng))
    roles: dict[str, list[Sample]] = {}
    for role, percent in percents.items():
        # Half an image is rounded up.
        wanted = max(_MIN_IMAGES, (len(train) * percent + 50) // 100)
        roles[role] = []
        while len(roles[role]) < wanted and (group := next(order, None)) is not None:
            roles[role].extend(group)
    roles["fit"] = [sample for group in order for sample in group]
    if any(len(samples) < _MIN_IMAGES for samples in roles.values()):
        found = ", ".join(f"{role} {len(samples)}" for role, samples in roles.items())
        groups = len({_group(sample) for sample in train})
        raise InputError(
            f"{dataset.root / 'train' / GOOD}: {len(dataset.train)} images, {len(train)} of them "
            f"usable in {groups} groups, give {found}; expected at least {_MIN_IMAGES} for each"
        )
    return {
        role: tuple(sorted(samples, key=lambda sample: sample.path.name))
        for role, samples in roles.items()
    }


def _with_reserve(split: Split, reserved: Mapping[str, Sequence[Sample]]) -> Split:
    return replace(
        split,
        validation=_flatten(samples[: split.shots] for samples in reserved.values()),
        reserved_unused=_flatten(samples[split.shots :] for samples in reserved.values()),
    )


def _group(sample: Sample) -> str:
    # An image of unknown group is a group of its own; "/" keeps its name apart from all groups
    # that come from a file name.
    return f"/{sample.path}" if sample.group is None else sample.group


def _shuffled_groups(samples: Iterable[Sample], rng: np.random.Generator) -> list[list[Sample]]:
    """Divides samples by group, in random order; the order within a group is kept."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(_group(sample), []).append(sample)
    names = list(groups)
    return [groups[names[index]] for index in rng.permutation(len(names))]


def _first_groups(order: Iterable[Sequence[Sample]], kind: str, count: int) -> set[str]:
    """Names the first groups that together hold at least `count` images of the type."""
    names: set[str] = set()
    held = 0
    for group in order:
        if held >= count:
            break
        of_kind = sum(sample.type == kind for sample in group)
        if of_kind:
            names.add(_group(group[0]))
            held += of_kind
    return names


def _flatten(parts: Iterable[Sequence[Sample]]) -> tuple[Sample, ...]:
    return tuple(sample for part in parts for sample in part)


def _without(samples: Iterable[Sample], removed: Iterable[Sample]) -> tuple[Sample, ...]:
    gone = set(removed)
    return tuple(sample for sample in samples if sample not in gone)
