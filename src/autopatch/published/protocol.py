"""The split of the AutoPatch paper, protocol `"autopatch"` of `autopatch.data.make_split`."""

from __future__ import annotations

from pathlib import Path

from autopatch.data.samples import Dataset, Sample, common_folder
from autopatch.data.splits import MIN_IMAGES, Split, SplitProtocol, with_reserve
from autopatch.errors import InputError, one_line
from autopatch.files import StrPath


def published_split(
    dataset: Dataset, *, shots: int, reserve: int, seed: int, legacy_order: StrPath | None = None
) -> Split:
    """Splits a data set as the published code does, see `autopatch.data.make_split`.

    Args:
        dataset: The images, without groups.
        shots: Validation images of each anomaly type.
        reserve: Images of each anomaly type to keep out of the test set.
        seed: Only recorded; nothing is random.
        legacy_order: A text file with the names of the training images in the order to use; None
            for the order of the data set.

    Raises:
        InputError: Images have groups, a role gets too few images, or the file does not name each
            training image once.
    """
    if any(sample.group is not None for sample in (*dataset.train, *dataset.test)):
        raise InputError(
            "`protocol` is 'autopatch' with groups, expected 'random', which keeps them"
        )
    train = tuple(dataset.train) if legacy_order is None else _in_order(dataset, Path(legacy_order))
    count = sum(not sample.label for sample in dataset.test)
    if not 0 < count <= len(train) - MIN_IMAGES:
        raise InputError(
            f"{dataset.root}: {count} good images to test and {len(train)} to train on, expected "
            f"at least 1 to test and {MIN_IMAGES} more than that to train on, since protocol "
            "'autopatch' holds out as many as there are to test"
        )
    holdout = train[:count]
    reserved = {
        kind: [sample for sample in dataset.test if sample.type == kind][:reserve]
        for kind in dataset.types
    }
    kept_out = {sample for samples in reserved.values() for sample in samples}
    split = Split(
        protocol="autopatch",
        seed=seed,
        shots=shots,
        reserve=reserve,
        fit=train[count:],
        holdout=holdout,
        calibration=holdout,
        validation=(),
        reserved_unused=(),
        mask_resize="any",
        test=tuple(sample for sample in dataset.test if sample not in kept_out),
        notes=(
            "the published split has no calibration set: the threshold is set on the "
            f"{count} hold-out images, which the search used for scoring too",
        ),
    )
    return with_reserve(split, reserved)


PUBLISHED = SplitProtocol(published_split, fixed=True)
"""The protocol `"autopatch"` of `autopatch.data.make_split`."""


def _in_order(dataset: Dataset, order: Path) -> tuple[Sample, ...]:
    """The training images in the order of a file of names."""
    try:
        names = order.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{order}: cannot be read: {one_line(error)}") from None
    folder = common_folder(dataset.train, dataset.root)
    samples = {sample.image.name: sample for sample in dataset.train}
    for number, name in enumerate(names, start=1):
        if name not in samples:
            raise InputError(
                f"{order}: line {number} is {name!r}, expected the name of an image of {folder}"
            )
        if name in names[: number - 1]:
            raise InputError(f"{order}: line {number} names {name!r} again, expected each once")
    missing = sorted(samples.keys() - set(names))
    if missing:
        raise InputError(
            f"{order}: lacks {len(missing)} of the {len(samples)} images of {folder}, the first: "
            f"{missing[0]!r}"
        )
    return tuple(samples[name] for name in names)
