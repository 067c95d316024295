"""What a data set is to the rest: good images to fit on, good and anomalous ones to test on."""

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
        group: What the image has in common with others that show the same part, None if unknown.
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
    """The images of a data set, in an order that does not change between two runs."""

    @property
    def root(self) -> Path:
        """The folder under which all files lie."""

    @property
    def train(self) -> Sequence[Sample]:
        """Good images to fit on."""

    @property
    def test(self) -> Sequence[Sample]:
        """Good images, of which there may be none, and anomalous ones, each with a mask."""

    @property
    def types(self) -> Sequence[str]:
        """The anomaly types, sorted."""

    @property
    def notes(self) -> Sequence[str]:
        """What was passed over when the images were found, and why, one line each."""


def anomaly_types(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The types of the anomalous images among samples, sorted."""
    return tuple(sorted({sample.type for sample in samples if sample.label}))


def relative_path(path: Path, root: StrPath) -> str:
    """A file's path relative to the folder of its data set, with forward slashes.

    Raises:
        InputError: The file does not lie under `root`.
    """
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise InputError(f"{path}: not under {root}, the folder of the data set") from None


def first_names(names: Sequence[str]) -> str:
    """The first three names for a message, and "..." if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def common_folder(samples: Iterable[Sample], root: Path) -> Path:
    """The folder of samples for a message: that of their images if it is one, else `root`."""
    folders = {sample.image.parent for sample in samples}
    return folders.pop() if len(folders) == 1 else root
