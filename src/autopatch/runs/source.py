"""Weights and images of a search."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from autopatch.data import (
    DEFAULT_READING,
    PROTOCOLS,
    Dataset,
    Findings,
    MVTecAD,
    Reading,
    Split,
    make_split,
    require_valid,
)
from autopatch.errors import InputError
from autopatch.files import StrPath, restored_path, stored_path
from autopatch.progress import Progress
from autopatch.supernet import LoadOptions, Supernet, load_supernet, weights_files


@dataclass(frozen=True)
class SupernetSource:
    """The search space and the weights of a search; created by `find`.

    Attributes:
        space: Name of the search space, such as "timm:mobilenetv2_100".
        weights: Absolute path of a weights file or folder, or a keyword such as "random".
        mean: Channel means; None for the means stored with the weights.
        std: Channel standard deviations; None for those stored with the weights.
        options: Options of the space's family, see `load_supernet`.
        files_sha256: SHA-256 of the weights files; None for a keyword.
    """

    space: str
    weights: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    files_sha256: str | None = None

    @classmethod
    def find(
        cls,
        space: str,
        weights: StrPath,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> SupernetSource:
        """Finds the weights files and hashes them; see `load_supernet`.

        Raises:
            InputError: The space is unknown, or the weights cannot be read.
        """
        text = os.fspath(weights)
        files = weights_files(space, text)
        given = LoadOptions(mean=mean, std=std, own=options or {})
        return cls(
            space=space,
            weights=str(Path(text).absolute()) if files else text,
            mean=None if given.mean is None else tuple(given.mean),
            std=None if given.std is None else tuple(given.std),
            options=given.own,
            files_sha256=_sha256(files) if files else None,
        )

    @property
    def file(self) -> str | None:
        """Path of the weights file or folder; None for a keyword."""
        return self.weights if self.files_sha256 is not None else None

    def load(self, *, seed: int, progress: Progress | None = None) -> Supernet:
        """Loads the backbones.

        Args:
            seed: Seed of random weights.
            progress: Called during a download, in MiB.

        Raises:
            InputError: The weights files are missing or changed, or do not fit the space.
        """
        if self.files_sha256 is not None:
            if not Path(self.weights).exists():
                raise InputError(
                    f"{self.weights}: the weights of the search are missing; give `weights`"
                )
            found = _sha256(weights_files(self.space, self.weights))
            if found != self.files_sha256:
                raise self.changed()

        def told(step: str, done: int, total: int) -> None:
            if progress is not None:
                progress(f"{step}, MiB", done >> 20, total >> 20)

        return load_supernet(
            self.space,
            self.weights,
            mean=self.mean,
            std=self.std,
            seed=seed,
            progress=told,
            **self.options,
        )

    def changed(self) -> InputError:
        """The error to raise if the weights differ from the weights of the search."""
        which = self.weights if self.file else f"`weights` '{self.weights}' of {self.space}"
        return InputError(
            f"{which}: not the weights that the search was made with, or changed since"
        )

    def settings(self) -> dict[str, Any]:
        """Settings that must be the same on resume: all except the path of the weights."""
        values = asdict(self)
        if self.files_sha256 is not None:
            del values["weights"]
        return values

    def stored_weights(self, run: Path) -> str:
        """The path of the weights as stored in a run folder, or the keyword."""
        if self.files_sha256 is None:
            return self.weights
        return stored_path(self.weights, run)

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], stored_weights: str, run: Path, weights: StrPath | None
    ) -> SupernetSource:
        """Restores the source from the settings of a run.

        Args:
            settings: Result of `settings`.
            stored_weights: Result of `stored_weights`.
            run: The run folder, which may have moved.
            weights: Current path of the weights; None for the stored path.

        Raises:
            InputError: `weights` is given for a search that used no weights file.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }
        source = cls(**{**values, "weights": stored_weights})
        if source.files_sha256 is None:
            if weights is not None and os.fspath(weights) != source.weights:
                raise InputError(
                    f"`weights` is '{os.fspath(weights)}', but the search was made with "
                    f"'{source.weights}'"
                )
            return source
        where = restored_path(stored_weights, run) if weights is None else Path(weights)
        return replace(source, weights=str(where.absolute()))


@dataclass(frozen=True)
class SplitRequest:
    """How to split the images of a data set.

    Attributes:
        shots: Validation images of each anomaly type; None for 1 if the data set has anomalous
            images, else 0.
        reserve: Images of each anomaly type that are never in the test set.
        seed: Seed of the order.
        protocol: A name in `PROTOCOLS`.
        group_regex: Regular expression that groups images by file name; None for no groups.
        groups: CSV file with the groups of the images; None for no groups.
        legacy_order: Text file with the names of the good images in order; None for the protocol's
            order.
    """

    shots: int | None = 1
    reserve: int = 4
    seed: int = 0
    protocol: str = "random"
    group_regex: str | None = None
    groups: StrPath | None = None
    legacy_order: StrPath | None = None

    def settings(self) -> dict[str, Any]:
        """Settings that a resumed search must share.

        The seed is stored with the other seeds. Groups and order are checked through the roles of
        the images.
        """
        return {
            "shots": self.shots,
            "reserve": self.reserve,
            "protocol": self.protocol,
        }


@dataclass(frozen=True)
class Inputs:
    """Images and backbones of a search; created by `load_inputs`.

    Attributes:
        root: Folder of the data set.
        split: Roles of its images.
        request: How the split was made; its number of shots is that of the split.
        findings: Results of checking the image files, and how they are read.
        source: Weights of the backbones.
        supernet: The backbones.
    """

    root: Path
    split: Split
    request: SplitRequest
    findings: Findings
    source: SupernetSource
    supernet: Supernet


def load_inputs(
    data: StrPath | Dataset,
    request: SplitRequest,
    source: SupernetSource,
    *,
    seed: int | None = None,
    reading: Reading = DEFAULT_READING,
    progress: Progress | None = None,
) -> Inputs:
    """Checks and splits the images of a data set, and loads the backbones.

    Args:
        data: Folder in the MVTec-AD layout, folder of good images, or a data set.
        request: How to split its images.
        source: Weights of the backbones.
        seed: Seed of random weights; the seed of the request if None.
        reading: How to read the files. If it has no bit depth, the smallest depth that holds the
            values of the fit images is used.
        progress: Called after every checked image, and during a download.

    Raises:
        InputError: The data set cannot be split as requested, an image or a mask is unusable, or
            the weights do not fit.
    """
    dataset = open_dataset(data, request)
    shots = request.shots
    if shots is None:
        shots = min(1, len(dataset.types))
        request = replace(request, shots=shots)
    share_out = partial(
        make_split,
        dataset,
        shots=shots,
        reserve=request.reserve,
        seed=request.seed,
        protocol=request.protocol,
        legacy_order=request.legacy_order,
    )
    # Split before reading the images, which takes longer, to find a wrong request early.
    split = share_out()
    reading = replace(reading, mask_resize=split.mask_resize)
    findings = require_valid(
        dataset,
        reading=reading,
        allow_contradictions=PROTOCOLS[request.protocol].fixed,
        progress=progress,
    )
    if findings.duplicates.groups:
        split = share_out(duplicates=findings.duplicates)
    findings = findings.decided(split.fit)
    split = replace(split, notes=(*split.notes, *findings.warnings))
    supernet = source.load(seed=request.seed if seed is None else seed, progress=progress)
    return Inputs(Path(dataset.root), split, request, findings, source, supernet)


def own_seed(name: str, own: int | None, seed: int) -> int:
    """A seed of its own if one is given, else the common seed.

    Args:
        name: Name of the argument.
        own: Its value.
        seed: The common seed.

    Raises:
        InputError: The seed is out of range.
    """
    if own is not None and not 0 <= own < 2**32:
        raise InputError(f"`{name}` is {own}, expected 0 to {2**32 - 1}")
    return seed if own is None else own


def data_root(data: StrPath) -> Path:
    """The folder of a data set as an absolute path without "..", so that paths in it compare equal
    to those that a run has stored."""
    root = Path(data).absolute()
    return root.resolve() if ".." in root.parts else root


def open_dataset(data: StrPath | Dataset, request: SplitRequest) -> Dataset:
    """Opens a folder in the MVTec-AD layout, or a folder of good images; returns a data set
    unchanged.

    Raises:
        InputError: The folder does not have this layout, or groups are given although `data` is a
            data set.
    """
    if isinstance(data, str | os.PathLike):
        root = data_root(data)
        return MVTecAD.scan(root, group_regex=request.group_regex, groups_csv=request.groups)
    if request.group_regex is not None or request.groups is not None:
        raise InputError(
            "`groups` or `group_regex` is given, but the data set has groups of its own"
        )
    return data


def _sha256(files: Sequence[Path]) -> str:
    """SHA-256 over the concatenated contents of files."""
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
