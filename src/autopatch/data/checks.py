"""Decodes a whole data set and reports problems and warnings."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from autopatch.data.decoding import decode
from autopatch.data.duplicates import Duplicates, find_duplicates, picture_digest
from autopatch.data.masks import EVALUATION_SIZE, decoded_mask, resize_mask
from autopatch.data.mvtec import MVTecAD
from autopatch.data.reading import DEFAULT_READING, Reading, Remarks, Seen, few_levels
from autopatch.data.samples import GOOD, Dataset, Sample, short_path
from autopatch.data.threads import in_threads
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.progress import Progress
from autopatch.words import by_count, counted, first_names

_MAX_GROWTH = 0.01  # share of the image by which small regions of a mask may grow without a warning


@dataclass(frozen=True)
class MaskAreas:
    """Anomalous share of each image of one anomaly type, 0 to 1, as its mask gives it.

    Attributes:
        median: Median over the images.
        smallest: The smallest share.
        largest: The largest share.
    """

    median: float
    smallest: float
    largest: float

    def describe(self) -> str:
        """Short text such as "1.2 % (0.4 to 3.1 %)"."""
        shares = map(_percent, (self.median, self.smallest, self.largest))
        return "{} % ({} to {} %)".format(*shares)


def _percent(share: float) -> str:
    """A share in percent, such as "1.2" or "45"."""
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"


@dataclass(frozen=True)
class Findings:
    """Results of decoding every image and mask of a data set.

    Attributes:
        problems: Faults that make the data set unusable, one line each, in the order of the files.
        warnings: Possible causes of wrong results, one line each, with the files and what to do.
        duplicates: Images that show the same picture; also reported in `problems` and `warnings`.
        reading: How the files are read, see `decided`.
        areas: The anomalous share of images, by anomaly type.
        seen: The readable images, by file.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: Duplicates = field(default_factory=Duplicates)
    reading: Reading = DEFAULT_READING
    areas: Mapping[str, MaskAreas] = field(default_factory=dict)
    seen: Mapping[Path, Seen] = field(default_factory=dict, repr=False, compare=False)

    def decided(self, fit: Iterable[Sample]) -> Findings:
        """The findings with a bit depth.

        Args:
            fit: The images that the memory bank is fitted on. If the reading has no bit depth, it
                gets the smallest that holds all their values.

        Returns:
            The findings, with further warnings: few gray levels, images brighter than the bit depth
            allows, dropped alpha channels.
        """
        fitted = [self.seen[sample.image] for sample in fit if sample.image in self.seen]
        reading = self.reading.decided(fitted)
        remarks = Remarks("give `bit_depth` {}")
        for seen in self.seen.values():
            remarks.add(
                seen.name, highest=seen.highest, alpha_varies=seen.alpha_varies, reading=reading
            )
        few = few_levels(fitted, reading) if fitted else ()
        return replace(self, reading=reading, warnings=(*self.warnings, *few, *remarks.lines()))

    def describe_areas(self) -> str:
        """The anomalous share of images by type, on one line."""
        types = (f"{kind} {areas.describe()}" for kind, areas in self.areas.items())
        return f"anomalous area, median and range: {', '.join(types)}"


@dataclass(frozen=True)
class CheckedFolder:
    """Contents and findings of a checked folder.

    Attributes:
        findings: Problems and warnings.
        counts: Number of images in each part, such as "test/good".
        groups: Number of groups of images, 0 if none are known.
    """

    findings: Findings
    counts: Mapping[str, int]
    groups: int


def check_folder(
    data: StrPath,
    *,
    group_regex: str | None = None,
    groups: StrPath | None = None,
    reading: Reading = DEFAULT_READING,
    progress: Progress | None = None,
) -> CheckedFolder:
    """Decodes every image and mask of a folder in the MVTec-AD layout.

    Args:
        data: The folder.
        group_regex: See `MVTecAD.scan`.
        groups: The `groups_csv` of `MVTecAD.scan`.
        reading: See `check`. If it has no bit depth, it gets the smallest that holds all values of
            the images in train/good.
        progress: Called after every image.

    Raises:
        InputError: The folder does not have this layout, or the groups cannot be read.
    """
    dataset = MVTecAD.scan(data, group_regex=group_regex, groups_csv=groups)
    counts = {"train/good": len(dataset.train)}
    for kind in (GOOD, *dataset.types):
        counts[f"test/{kind}"] = sum(sample.type == kind for sample in dataset.test)
    known = {sample.group for sample in (*dataset.train, *dataset.test)} - {None}
    findings = check(dataset, reading=reading, progress=progress).decided(dataset.train)
    return CheckedFolder(findings, counts, len(known))


def check(
    dataset: Dataset,
    *,
    reading: Reading = DEFAULT_READING,
    evaluation_size: int = EVALUATION_SIZE,
    allow_contradictions: bool = False,
    progress: Progress | None = None,
) -> Findings:
    """Decodes every image and mask, and checks types, masks, roles and duplicates.

    All training images must be good, every anomalous image must have a mask, a good image must not
    have one, and no good image may show the same picture as an anomalous one.

    Args:
        dataset: The images, as tuples or lists.
        reading: How the files are read.
        evaluation_size: Side in pixels, at which each mask must still have an anomalous pixel.
        allow_contradictions: Whether a picture that is both good and anomalous is a warning instead
            of a problem, for published splits.
        progress: Called after every image.
    """
    samples = [
        *((sample, True) for sample in dataset.train),
        *((sample, False) for sample in dataset.test),
    ]
    told = None if progress is None else partial(progress, "read images")
    root = Path(dataset.root)
    look_at = partial(_look, root=root, reading=reading, evaluation_size=evaluation_size)
    looks = in_threads(look_at, samples, told)
    masks = {
        kind: [look for look in looks if look.sample.type == kind and look.share]
        for kind in dataset.types
    }
    digests = {look.sample.image: look.digest for look in looks if look.digest is not None}
    duplicates = find_duplicates(dataset, digests)
    problems = [problem for look in looks for problem in look.problems]
    contradictions = duplicates.contradictions
    return Findings(
        problems=tuple(problems) if allow_contradictions else (*problems, *contradictions),
        warnings=(
            *dataset.notes,
            *duplicates.warnings,
            *(contradictions if allow_contradictions else ()),
            *_turned(looks),
            *(line for kind, of_type in masks.items() for line in _covering(kind, of_type, root)),
            *(_speckled(looks, root, evaluation_size) if reading.mask_resize == "area" else ()),
        ),
        duplicates=duplicates,
        reading=reading,
        areas={kind: _areas(of_type) for kind, of_type in masks.items() if of_type},
        seen={look.sample.image: look.seen for look in looks if look.seen is not None},
    )


@dataclass(frozen=True)
class _Look:
    """Findings about one sample.

    Attributes:
        sample: The sample.
        problems: Faults that make it unusable, one line each.
        seen: Its image, None if unreadable.
        digest: Hash of its picture, None if unreadable.
        share: Anomalous share of its mask, 0 without a readable mask.
        kept: The same share after resizing.
        mask_orientation: EXIF orientation of its mask, 1 to 8.
    """

    sample: Sample
    problems: tuple[str, ...]
    seen: Seen | None = None
    digest: bytes | None = None
    share: float = 0.0
    kept: float = 0.0
    mask_orientation: int = 1


def _look(
    part: tuple[Sample, bool], *, root: Path, reading: Reading, evaluation_size: int
) -> _Look:
    sample, is_train = part
    problems: list[str] = []
    misplaced = _misplaced(sample, is_train)
    if misplaced is not None:
        problems.append(misplaced)
    seen: Seen | None = None
    digest: bytes | None = None
    try:
        image = decode(sample.image, sample.image, reading.exif)
        seen = Seen.of(short_path(sample.image, root), image)
        digest = picture_digest(image.values())
    except InputError as error:
        problems.append(str(error))
    if sample.mask is None or not sample.label:
        return _Look(sample, tuple(problems), seen, digest)
    try:
        decoded = decode(sample.mask, sample.mask, reading.exif)
        mask = decoded_mask(decoded, sample.mask, reading)
        if seen is not None and mask.size != seen.size:
            raise InputError(_size_problem(sample, mask.size, seen, decoded.orientation, reading))
        kept = float(resize_mask(mask, evaluation_size, sample, reading).mean())
    except InputError as error:
        return _Look(sample, (*problems, str(error)), seen, digest)
    share = float(np.mean(np.asarray(mask) > 0))
    return _Look(sample, tuple(problems), seen, digest, share, kept, decoded.orientation)


def _size_problem(
    sample: Sample,
    mask_size: tuple[int, int],
    seen: Seen,
    mask_orientation: int,
    reading: Reading,
) -> str:
    """The message for a mask whose size differs from its image's."""
    width, height = seen.size
    hint = ""
    if mask_size == (height, width) and (seen.orientation < 5) != (mask_orientation < 5):
        one, other = ("image", "mask") if mask_orientation < 5 else ("mask", "image")
        turned = "is turned by its EXIF tag" if reading.exif == "apply" else "is not turned"
        choice = "ignore" if reading.exif == "apply" else "apply"
        hint = f"; the {one} {turned}, the {other} is the other way round: give `exif` {choice}"
    return (
        f"{sample.mask}: the mask is {mask_size[0]} x {mask_size[1]} pixels, expected {width} x "
        f"{height} as its image{hint}"
    )


def _turned(looks: Sequence[_Look]) -> tuple[str, ...]:
    """A warning about images and masks whose EXIF tags turn them differently."""
    doubtful = [
        look.seen.name
        for look in looks
        if look.seen is not None and look.share and look.seen.orientation != look.mask_orientation
        # If only one has a quarter turn, the sizes have shown that they match, unless the image is
        # square.
        if (look.seen.orientation < 5) == (look.mask_orientation < 5)
        or look.seen.size[0] == look.seen.size[1]
    ]
    if not doubtful:
        return ()
    count = len(doubtful)
    found = f"{counted(count, 'image')} and {by_count(count, 'its mask', 'masks')}"
    return (
        f"{found} have different EXIF orientations: {first_names(doubtful)}; check that masks and "
        "images match, and choose `exif` apply or `exif` ignore",
    )


def _covering(kind: str, masks: Sequence[_Look], root: Path) -> tuple[str, ...]:
    """Warnings about masks of one type that are entirely white, or probably inverted."""
    white = [look for look in masks if look.share == 1]
    most = [look for look in masks if 0.5 < look.share < 1]
    found = []
    if white:
        verb = by_count(len(white), "marks", "mark")
        found.append(
            f"{counted(len(white), 'mask')} of the type {kind!r} {verb} the whole image: "
            f"{_masks_of(white, root)}; mark only the defects, unless they cover it"
        )
    if 2 * len(most) > len(masks) - len(white):
        found.append(
            f"{len(most)} of {len(masks)} masks of the type {kind!r} mark more than half of the "
            f"image: {_masks_of(most, root)}; "
            "if they are inverted, make defects white and the rest black"
        )
    return tuple(found)


def _speckled(looks: Sequence[_Look], root: Path, size: int) -> tuple[str, ...]:
    """A warning about masks of specks, which grow when they are resized by the rule "area"."""
    grown = [look for look in looks if look.kept > max(2 * look.share, look.share + _MAX_GROWTH)]
    if not grown:
        return ()
    most = max(grown, key=lambda look: look.kept - look.share)
    verb = by_count(len(grown), "becomes", "become")
    return (
        f"{counted(len(grown), 'mask')} {verb} more than twice as large at {size} x {size} pixels, "
        f"up to {_percent(most.kept)} % of the image instead of {_percent(most.share)} %: "
        f"{_masks_of(grown, root)}; each of their specks grows to a pixel: remove specks, or "
        "raise `mask_threshold`",
    )


def _masks_of(looks: Sequence[_Look], root: Path) -> str:
    return first_names([short_path(look.sample.mask, root) for look in looks if look.sample.mask])


def _areas(masks: Sequence[_Look]) -> MaskAreas:
    shares = [look.share for look in masks]
    return MaskAreas(statistics.median(shares), min(shares), max(shares))


def _misplaced(sample: Sample, is_train: bool) -> str | None:
    """The message if type, mask and role of a sample contradict each other; reads no file."""
    if is_train and sample.label:
        return f"{sample.image}: an image of the type {sample.type!r} in train, expected good ones"
    if sample.label and sample.mask is None:
        return f"{sample.image}: an image of the type {sample.type!r} without a mask, expected one"
    if not sample.label and sample.mask is not None:
        return f"{sample.image}: a good image with the mask {sample.mask}, expected none"
    return None


def require_valid(
    dataset: Dataset,
    *,
    reading: Reading = DEFAULT_READING,
    evaluation_size: int = EVALUATION_SIZE,
    allow_contradictions: bool = False,
    progress: Progress | None = None,
) -> Findings:
    """Refuses a data set in which `check` finds a problem.

    Returns:
        What `check` found, without problems.

    Raises:
        InputError: The first problem, and how many more there are.
    """
    findings = check(
        dataset,
        reading=reading,
        evaluation_size=evaluation_size,
        allow_contradictions=allow_contradictions,
        progress=progress,
    )
    problems = findings.problems
    if problems:
        more = f" (and {counted(len(problems) - 1, 'more problem')})" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return findings
