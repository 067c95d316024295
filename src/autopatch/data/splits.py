"""Splits of a data set: each image gets a role in fit, search, calibration or test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autopatch.data.duplicates import Duplicates, with_groups
from autopatch.data.samples import (
    Dataset,
    Sample,
    common_folder,
    group_of,
    relative_path,
    short_path,
)
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.registry import Registry

ROLES = ("fit", "holdout", "calibration", "validation", "reserved_unused", "test")
"""The parts of a split."""

MIN_IMAGES = 2
"""Smallest number of good images in a role."""

_HOLDOUT_PERCENT = 20
_TEST_PERCENT = 20


@dataclass(frozen=True)
class Split:
    """The roles of a data set's images.

    The search is scored on `holdout` and `validation`. `test` plays no part in it.

    Attributes:
        protocol: Name of the rule that chose the roles, one of `PROTOCOLS`.
        seed: Seed of the random choices.
        shots: Number of validation images of each anomaly type.
        reserve: Number of images of each anomaly type kept out of `test`.
        fit: Good images from which the memory bank is built.
        holdout: Good images of the search's validation set.
        calibration: Good images from which the threshold is set; none if it is set by folds of
            `fit` and `holdout`.
        validation: Anomalous images of the search's validation set. Types are sorted, and images
            within a type are in the split's order, so that more shots only add images.
        reserved_unused: The rest of the reserve, in the same order.
        test: Good and anomalous images of the final evaluation.
        notes: Deviations from the request or the protocol, and warnings, one line each.
        mask_resize: Rule for resizing masks, see `Reading`.
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
    mask_resize: str = "area"

    @property
    def good(self) -> tuple[Sample, ...]:
        """The good images that a detector is fitted on: those of `fit` and `holdout`; with a
        calibration set, those of `fit`."""
        return self.fit if self.calibration else (*self.fit, *self.holdout)

    @property
    def roles(self) -> dict[str, tuple[Sample, ...]]:
        """The samples by role, in the order of `ROLES`."""
        return {role: getattr(self, role) for role in ROLES}

    def to_json(self, root: StrPath) -> dict[str, Any]:
        """Converts the split to JSON values, with paths relative to `root`.

        Raises:
            InputError: An image does not lie under `root`.
        """
        document: dict[str, Any] = {
            "protocol": self.protocol,
            "seed": self.seed,
            "shots": self.shots,
            "reserve": self.reserve,
            "notes": list(self.notes),
            "mask_resize": self.mask_resize,
        }
        for role, samples in self.roles.items():
            document[role] = [
                {
                    "path": relative_path(sample.image, root),
                    "type": sample.type,
                    "mask": None if sample.mask is None else relative_path(sample.mask, root),
                    "group": sample.group,
                }
                for sample in samples
            ]
        return document

    @classmethod
    def from_json(
        cls, document: Mapping[str, Any], root: StrPath, *, require_files: bool = True
    ) -> Split:
        """Reads the document of `to_json`.

        Args:
            document: The JSON values.
            root: Folder of the data set, which may have moved.
            require_files: Whether all files must exist.

        Raises:
            InputError: The document is not a split, or a required file is missing under `root`.
        """
        root = Path(root)
        try:
            roles: dict[str, Any] = {
                role: tuple(
                    Sample(
                        image=root / entry["path"],
                        type=str(entry["type"]),
                        mask=None if entry["mask"] is None else root / entry["mask"],
                        group=entry["group"],
                    )
                    for entry in document[role]
                )
                for role in ROLES
            }
            split = cls(
                protocol=str(document["protocol"]),
                seed=int(document["seed"]),
                shots=int(document["shots"]),
                reserve=int(document["reserve"]),
                notes=tuple(str(note) for note in document["notes"]),
                mask_resize=str(document["mask_resize"]),
                **roles,
            )
        except KeyError as error:
            raise InputError(
                f"split: no entry {error}, expected the output of Split.to_json"
            ) from None
        except (TypeError, ValueError) as error:
            raise InputError(f"split: {error}, expected the output of Split.to_json") from None
        if not require_files:
            return split
        files = {
            path
            for samples in roles.values()
            for sample in samples
            for path in (sample.image, sample.mask)
            if path is not None
        }
        missing = sorted(path for path in files if not path.is_file())
        if missing:
            raise InputError(
                f"{missing[0]}: missing ({len(missing)} of the {len(files)} files of the split); "
                "expected the data set that was split"
            )
        return split


class RoleChooser(Protocol):
    """Chooses roles. `make_split` first checks the arguments and the numbers of images."""

    def __call__(
        self,
        dataset: Dataset,
        *,
        shots: int,
        reserve: int,
        seed: int,
        legacy_order: StrPath | None,
    ) -> Split:
        """Chooses the roles, see `make_split`. Refuses a `legacy_order` that it cannot use."""


@dataclass(frozen=True)
class SplitProtocol:
    """A split protocol.

    Attributes:
        choose: Chooses the roles.
        fixed: Whether the roles are fixed by a publication. Images that show the same picture then
            keep their published roles.
    """

    choose: RoleChooser
    fixed: bool = False


PROTOCOLS: Registry[SplitProtocol] = Registry(
    "protocol",
    {
        "random": "autopatch.data.splits:RANDOM",
        "autopatch": "autopatch.published.protocol:PUBLISHED",
    },
)
"""The split protocols of `make_split`, by name."""


def make_split(
    dataset: Dataset,
    *,
    shots: int,
    reserve: int = 4,
    seed: int = 0,
    protocol: str = "random",
    legacy_order: StrPath | None = None,
    duplicates: Duplicates | None = None,
) -> Split:
    """Assigns a role to each image.

    The first `reserve` images of each anomaly type, in the split's order, are kept out of the test
    set, and the first `shots` of them are the validation anomalies. Test results with different
    numbers of shots are therefore comparable.

    Protocol `"random"`: `seed` sets the order of the images, or of the groups if they are known.
    Groups are never divided. The reserve takes whole groups until it has `reserve` images of each
    type. The other images of these groups (good or of another type) are not tested. Training images
    whose group has test images are left out. Of the n remaining training images, 20 % are hold-out
    (rounded to the nearest image, at least 2, then up to the end of a group). The rest, at least 2,
    is fit. There is no calibration set: a detector is fitted on all of them, and its threshold is
    set by folds. If there are no good test images, another 20 % become the good images of the test
    set.

    Protocol `"autopatch"`: the split of the AutoPatch paper, in the order of the data set or of
    `legacy_order`. With n good test images, the first n training images are hold-out and the rest
    is fit. Calibration uses the hold-out images too, because the published split has none for it.

    Args:
        dataset: The images.
        shots: Validation images of each anomaly type, 0 to `reserve`.
        reserve: Images of each anomaly type to keep out of the test set.
        seed: Seed of the random order, 0 to 2**32 - 1.
        protocol: One of `PROTOCOLS`.
        legacy_order: For the protocol `"autopatch"`, a text file with the file names of the
            training images, one per line, whose order replaces that of the data set. The published
            code used directory order, which differs between file systems.
        duplicates: Images that show the same picture, see `Findings`. They are put into one group,
            except with the protocol `"autopatch"`.

    Raises:
        InputError: An argument is out of range, there are too few images for a role, groups are
            given with the protocol `"autopatch"`, a legacy order is given with another protocol, or
            the order does not name each training image once.
    """
    rule = PROTOCOLS[protocol]
    for name, value in (("shots", shots), ("reserve", reserve), ("seed", seed)):
        if value < 0:
            raise InputError(f"`{name}` is {value}, expected at least 0")
    if seed >= 2**32:
        raise InputError(f"`seed` is {seed}, expected at most {2**32 - 1}")
    if shots > reserve:
        raise InputError(f"`shots` is {shots}, expected at most the `reserve` of {reserve}")
    for kind in dataset.types:
        count = sum(sample.type == kind for sample in dataset.test)
        if count < shots:
            raise InputError(f"`shots` is {shots}, but the type {kind!r} has only {count} images")
        if count <= reserve:
            raise InputError(
                f"`reserve` is {reserve}, but the type {kind!r} has {count} images, expected at "
                f"least {reserve + 1} so that one is left to test"
            )
    if duplicates is not None and not rule.fixed:
        dataset = with_groups(dataset, duplicates.groups)
    return rule.choose(dataset, shots=shots, reserve=reserve, seed=seed, legacy_order=legacy_order)


def random_split(
    dataset: Dataset, *, shots: int, reserve: int, seed: int, legacy_order: StrPath | None
) -> Split:
    """The protocol `"random"` of `make_split`."""
    if legacy_order is not None:
        raise InputError(
            f"`legacy_order` is {legacy_order}, expected none with `protocol` 'random'"
        )
    notes: list[str] = []
    good_folder = _folder_of(dataset.train, dataset)
    anomalies = [sample for sample in dataset.test if sample.label]
    reserved_groups: set[str] = set()
    # Anomalous and good images have separate random streams, so that the order of one does not
    # depend on the number of the other.
    order = _shuffled_groups(anomalies, np.random.default_rng((seed, 0)))
    for kind in dataset.types:
        reserved_groups |= _first_groups(order, kind, reserve)
    reserved = {
        kind: [
            sample
            for group in order
            for sample in group
            if sample.type == kind and group_of(sample) in reserved_groups
        ]
        for kind in dataset.types
    }
    test = tuple(sample for sample in dataset.test if group_of(sample) not in reserved_groups)
    for kind in dataset.types:
        if not any(sample.type == kind for sample in test):
            raise InputError(
                f"`reserve` is {reserve}, but whole groups of the type {kind!r} leave no image to "
                "test, expected smaller groups or a smaller reserve"
            )
    test_good = [sample for sample in dataset.test if not sample.label]
    dropped = len(test_good) - sum(not sample.label for sample in test)
    if dropped:
        notes.append(
            f"left out {dropped} of the {len(test_good)} images of "
            f"{_folder_of(test_good, dataset)}: their groups lie in the reserve of an anomaly type"
        )
        if dropped == len(test_good):
            raise InputError(
                f"{common_folder(test_good, dataset.root)}: the groups of all {dropped} images lie "
                "in the reserve of an anomaly type, expected one that does not"
            )

    test_groups = {group_of(sample) for sample in dataset.test}
    train = [sample for sample in dataset.train if group_of(sample) not in test_groups]
    left_out = len(dataset.train) - len(train)
    if left_out:
        notes.append(
            f"left out {left_out} of the {len(dataset.train)} images of {good_folder}: their "
            "groups have test images, too"
        )
    percents = {"holdout": _HOLDOUT_PERCENT}
    if not test_good:
        percents["test"] = _TEST_PERCENT
    good = _assign_good(dataset, train, percents, np.random.default_rng((seed, 1)))
    if not test_good:
        notes.append(
            f"no good images to test: {len(good['test'])} images of {good_folder} become the good "
            "images of the test set"
        )
    return with_reserve(
        Split(
            protocol="random",
            seed=seed,
            shots=shots,
            reserve=reserve,
            fit=good["fit"],
            holdout=good["holdout"],
            calibration=(),
            validation=(),
            reserved_unused=(),
            test=good.get("test", ()) + test,
            notes=tuple(notes),
        ),
        reserved,
    )


RANDOM = SplitProtocol(random_split)
"""The protocol `"random"` of `make_split`."""


def _assign_good(
    dataset: Dataset,
    train: Sequence[Sample],
    percents: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, tuple[Sample, ...]]:
    """Assigns whole groups of good images to the roles in `percents`, and the rest to fit."""
    order = iter(_shuffled_groups(train, rng))
    roles: dict[str, list[Sample]] = {}
    for role, percent in percents.items():
        # Rounds half an image up.
        wanted = max(MIN_IMAGES, (len(train) * percent + 50) // 100)
        roles[role] = []
        while len(roles[role]) < wanted and (group := next(order, None)) is not None:
            roles[role].extend(group)
    roles["fit"] = [sample for group in order for sample in group]
    if any(len(samples) < MIN_IMAGES for samples in roles.values()):
        found = ", ".join(f"{role} {len(samples)}" for role, samples in roles.items())
        groups = len({group_of(sample) for sample in train})
        raise InputError(
            f"{common_folder(dataset.train, dataset.root)}: {len(dataset.train)} images, "
            f"{len(train)} of them usable in {groups} groups, give {found}; "
            f"expected at least {MIN_IMAGES} for each"
        )
    return {
        role: tuple(sorted(samples, key=lambda sample: sample.image.name))
        for role, samples in roles.items()
    }


def with_reserve(split: Split, reserved: Mapping[str, Sequence[Sample]]) -> Split:
    """Fills `validation` with the first shots of each type's reserve, and `reserved_unused`."""
    return replace(
        split,
        validation=_flatten(samples[: split.shots] for samples in reserved.values()),
        reserved_unused=_flatten(samples[split.shots :] for samples in reserved.values()),
    )


def _shuffled_groups(samples: Iterable[Sample], rng: np.random.Generator) -> list[list[Sample]]:
    """Collects samples by group, in random order; the order within a group is kept."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(group_of(sample), []).append(sample)
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
            names.add(group_of(group[0]))
            held += of_kind
    return names


def _flatten(parts: Iterable[Sequence[Sample]]) -> tuple[Sample, ...]:
    return tuple(sample for part in parts for sample in part)


def _folder_of(samples: Iterable[Sample], dataset: Dataset) -> str:
    return short_path(common_folder(samples, dataset.root), dataset.root)
