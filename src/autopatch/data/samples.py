"""Samples and data sets: good images for fitting, good and anomalous images for testing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autopatch.errors import InputError
from autopatch.files import StrPath

GOOD = "good"
"""The type of images without an anomaly."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        image: The image file.
        type: `"good"`, or the anomaly type.
        mask: The mask file of an anomalous image, None for a good one.
        group: Name of the group of images that show the same part, None if unknown.
    """

    image: Path
    type: str
    mask: Path | None = None
    group: str | None = None

    @property
    def label(self) -> bool:
        """Whether the image is anomalous."""
        return self.type != GOOD


class Dataset(Protocol):
    """The images of a data set, in the same order on every run."""

    @property
    def root(self) -> Path:
        """The folder that holds all files, directly or in subfolders."""

    @property
    def train(self) -> Sequence[Sample]:
        """Good images for fitting."""

    @property
    def test(self) -> Sequence[Sample]:
        """Anomalous images, each with a mask, and good images, if any."""

    @property
    def types(self) -> Sequence[str]:
        """The anomaly types, sorted."""

    @property
    def notes(self) -> Sequence[str]:
        """Skipped files and folders with the reason, one line each."""


def group_of(sample: Sample) -> str:
    """Name of the group of an image; an image without a group is its own."""
    # The "/" makes its name differ from those of groups that come from file names.
    return f"/{sample.image}" if sample.group is None else sample.group


def anomaly_types(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Returns the types of the anomalous samples, sorted."""
    return tuple(sorted({sample.type for sample in samples if sample.label}))


def relative_path(path: Path, root: StrPath) -> str:
    """Returns the path of a file relative to the folder of its data set, with forward slashes.

    Raises:
        InputError: The file does not lie under `root`.
    """
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise InputError(f"{path}: not under {root}, the folder of the data set") from None


def short_path(path: Path, root: StrPath) -> str:
    """The path of a file or folder for messages: relative to the folder of its data set, with
    forward slashes, if it lies below it; otherwise unchanged."""
    root = Path(root)
    return path.relative_to(root).as_posix() if root in path.parents else str(path)


def common_folder(samples: Iterable[Sample], root: Path) -> Path:
    """Returns the folder of the samples' images, or `root` if they are in several folders."""
    folders = {sample.image.parent for sample in samples}
    return folders.pop() if len(folders) == 1 else root
