"""Where the backbone and the images of a run come from."""

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
    """The backbone of a run; made by `find`.

    Attributes:
        space: Name of the search space, such as "timm:mobilenetv2_100".
        weights: Absolute path of a weights file or folder, or a word such as "random".
        mean: Channel means, None for those of the weights.
        std: Channel deviations, None for those of the weights.
        options: Of the space's family, see `load_supernet`.
        files_sha256: SHA-256 of the weights files, None for a word.
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
        """The source with the hash of its weights; see `load_supernet`.

        Raises:
            InputError: The space is unknown, or the weights cannot be read.
        """
        text = os.fspath(weights)
        files = weights_files(space, text)
        return cls(
            space=space,
            weights=str(Path(text).absolute()) if files else text,
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
            options=LoadOptions(own=options or {}).own,
            files_sha256=_sha256(files) if files else None,
        )

    @property
    def file(self) -> str | None:
        """The weights if they are a file or a folder, None for a word."""
        return self.weights if self.files_sha256 is not None else None

    def load(self, *, seed: int, progress: Progress | None = None) -> Supernet:
        """The backbone.

        Args:
            seed: Of random weights.
            progress: Told of a download, in MiB.

        Raises:
            InputError: The weights are not there any more or do not fit, or are not those the
                search was made with.
        """
        if self.files_sha256 is not None:
            if not Path(self.weights).exists():
                raise InputError(
                    f"{self.weights}: the weights of the search are not there; give `weights`"
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
        """The error where the weights are not those of the search."""
        which = self.weights if self.file else f"`weights` '{self.weights}' of {self.space}"
        return InputError(
            f"{which}: not the weights that the search was made with, or changed since"
        )

    def settings(self) -> dict[str, Any]:
        """What a resumed search must have the same: all but where the weights lie."""
        values = asdict(self)
        if self.files_sha256 is not None:
            del values["weights"]
        return values

    def stored_weights(self, run: Path) -> str:
        """The weights as a run folder keeps them."""
        if self.files_sha256 is None:
            return self.weights
        return stored_path(self.weights, run)

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], stored_weights: str, run: Path, weights: StrPath | None
    ) -> SupernetSource:
        """The source of a run folder.

        Args:
            settings: What `settings` gave.
            stored_weights: What `stored_weights` gave.
            run: The folder, which may have moved.
            weights: Where the weights are now, None for where the folder says.

        Raises:
            InputError: Weights are given for a search that has no file of them.
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
    """How the images of a data set are shared out.

    Attributes:
        shots: Validation images of each anomaly type.
        reserve: Images of each anomaly type that are never in the test part.
        seed: Of the order.
        protocol: A name of `PROTOCOLS`.
        group_regex: What groups images by file name, None for no groups.
        groups: Table of the images' groups, None for no groups.
        legacy_order: List of the names of the good images, None for the order of the protocol.
    """

    shots: int = 1
    reserve: int = 4
    seed: int = 0
    protocol: str = "random"
    group_regex: str | None = None
    groups: StrPath | None = None
    legacy_order: StrPath | None = None

    def settings(self) -> dict[str, Any]:
        """What a resumed search must have the same; groups and order show in the images' roles,
        and the seed is kept beside the others."""
        return {
            "shots": self.shots,
            "reserve": self.reserve,
            "protocol": self.protocol,
        }


@dataclass(frozen=True)
class Inputs:
    """What a search is made of; made by `load_inputs`.

    Attributes:
        root: Folder of the data set.
        split: Roles of its images.
        request: What the split was asked for.
        findings: What was found in its files, and how they are read.
        source: Where the backbone comes from.
        supernet: The backbone.
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
    """Shares out the images of a data set, all of which are sound, and loads the backbone.

    Args:
        data: Folder in the MVTec-AD layout, or a data set.
        request: How to share out its images.
        source: Where the backbone comes from.
        seed: Of random weights; that of the request if None.
        reading: How the files are to be read; if it has no bit depth, the smallest one that holds
            the images to fit on is taken.
        progress: Told of every image that was read, and of a download.

    Raises:
        InputError: The request does not suit the data set, an image or a mask is not sound, or the
            weights do not fit.
    """
    dataset = open_dataset(data, request)
    share_out = partial(
        make_split,
        dataset,
        shots=request.shots,
        reserve=request.reserve,
        seed=request.seed,
        protocol=request.protocol,
        legacy_order=request.legacy_order,
    )
    # First without a look at the images, which takes longer: the request may not suit them.
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
    """A seed of its own, or the common one where none is given.

    Args:
        name: The argument.
        own: Its value.
        seed: The common seed.

    Raises:
        InputError: The seed is out of range.
    """
    if own is not None and not 0 <= own < 2**32:
        raise InputError(f"`{name}` is {own}, expected 0 to {2**32 - 1}")
    return seed if own is None else own


def open_dataset(data: StrPath | Dataset, request: SplitRequest) -> Dataset:
    """The data set of a folder in the MVTec-AD layout, or the one that is given.

    Raises:
        InputError: The folder does not have this layout, or groups are asked of a data set that is
            no folder.
    """
    if isinstance(data, str | os.PathLike):
        root = Path(data).absolute()
        return MVTecAD.scan(root, group_regex=request.group_regex, groups_csv=request.groups)
    if request.group_regex is not None or request.groups is not None:
        raise InputError("groups are given, but the data set has groups of its own")
    return data


def _sha256(files: Sequence[Path]) -> str:
    """Hash of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
