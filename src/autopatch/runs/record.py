"""A run folder, read from disk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autopatch.data import Anomaly, Manifest, Reading, Sample, Split
from autopatch.detector import Architecture, Detector
from autopatch.errors import InputError
from autopatch.files import StrPath, restored_path
from autopatch.progress import Progress
from autopatch.report import PAGE
from autopatch.runs.folder import (
    DETECTOR,
    MANIFEST,
    REPORT,
    STUDY,
    TEST_RESULTS,
    read_json,
    read_split,
    read_synthetic,
    require_same_data,
)
from autopatch.runs.source import SupernetSource, data_root
from autopatch.search import (
    RULES,
    Constraint,
    Front,
    LatencyTable,
    Objective,
    SearchSpace,
    Trial,
    failed_candidates,
    load_study,
    non_dominated,
    none_feasible,
)
from autopatch.supernet import Supernet

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False, repr=False)
class RunRecord:
    """A run folder, read from disk. Images and weights are read when first needed.

    Attributes:
        path: The folder, absolute.
        data: Folder of the data set, absolute.
        source: Weights of the backbone.
        space: The search space.
        objectives: Objectives of the search; the first is the cost, the last the quality.
        constraints: Constraints of the search.
        latency_table: What latencies are read from; None if the search has no latency.
        rule: Name of the rule that picks a trial.
        draws: Whether the search has drawn synthetic anomalies.
        seed: Seed of the optimizer and of random weights.
        evaluations: Number of architectures to evaluate.
        split: Roles of the images.
        reading: How image and mask files become pixels.
        trials: All trials by number.
        optimizer: The optimizer, in words.
        data_digest: Digest of the images, masks, roles, types and groups of the search.
        weights_sha256: `Supernet.weights_sha256` of the search.
    """

    path: Path
    data: Path
    source: SupernetSource
    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    latency_table: LatencyTable | None
    rule: str
    draws: bool
    seed: int
    evaluations: int
    split: Split
    reading: Reading
    trials: tuple[Trial, ...]
    optimizer: str
    data_digest: str
    weights_sha256: str

    @classmethod
    def open(
        cls, path: StrPath, *, data: StrPath | None = None, weights: StrPath | None = None
    ) -> Self:
        """Reads a run folder.

        Args:
            path: The folder.
            data: Folder of the data set, if it was moved.
            weights: File or folder of the weights, if they were moved.

        Raises:
            InputError: The folder or a part of it is missing or damaged, or `weights` is given for
                a search that used no weights file.
        """
        path = Path(path).absolute()
        if not (path / STUDY).is_file():
            raise InputError(f"{path}: no {STUDY} in it, expected the folder of a search")
        study = load_study(path / STUDY)
        settings = study.settings
        try:
            paths = settings["unchecked"]["paths"]
            source = SupernetSource.restore(settings["source"], paths["weights"], path, weights)
            space = SearchSpace.from_json(settings["space"])
            versions = settings["versions"]
            library = next(iter(versions))
            optimizer = f"{settings['sampler']} ({library} {versions[library]})"
            numbers = {name: int(settings[name]) for name in ("seed", "evaluations")}
            digest = str(settings["data_digest"])
            reading = Reading.from_json({f.name: settings[f.name] for f in fields(Reading)})
            weights_sha256 = str(settings["weights_sha256"])
            rule = str(settings["rule"])
            root = restored_path(paths["data"], path) if data is None else data_root(data)
        except InputError:
            raise
        except (
            AttributeError,
            KeyError,
            OverflowError,
            StopIteration,
            TypeError,
            ValueError,
        ) as error:
            raise InputError(
                f"{path / STUDY}: a setting is missing or damaged, or the search is one of another "
                f"version of autopatch ({error})"
            ) from error
        if Manifest.from_json(read_json(path / MANIFEST)).digest != digest:
            raise InputError(f"{path / MANIFEST}: not the manifest of this search; search again")
        return cls(
            path=path,
            data=root,
            source=source,
            space=space,
            objectives=study.objectives,
            constraints=study.constraints,
            latency_table=study.latency_table,
            rule=rule,
            draws="drawing" in settings,
            split=read_split(path, root),
            reading=reading,
            trials=study.trials,
            optimizer=optimizer,
            data_digest=digest,
            weights_sha256=weights_sha256,
            **numbers,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self.trials)} trials)"

    @cached_property
    def supernet(self) -> Supernet:
        """The backbones of the search, loaded on first use.

        Raises:
            InputError: The weights are missing or have changed since the search.
        """
        supernet = self.source.load(seed=self.seed)
        if supernet.weights_sha256 != self.weights_sha256:
            raise self.source.changed()
        return supernet

    @property
    def detector_path(self) -> Path:
        """Path of the file that `fit` writes by default."""
        return self.path / DETECTOR

    @property
    def results_path(self) -> Path:
        """Path of the file that `evaluate` writes."""
        return self.path / TEST_RESULTS

    @property
    def report_path(self) -> Path:
        """Path of the page that `report` writes."""
        return self.path / REPORT / PAGE

    @property
    def front(self) -> Front:
        """The Pareto front of the evaluated trials, see `non_dominated`.

        Raises:
            InputError: No trial has been evaluated.
        """
        trials = non_dominated(self.trials, self.objectives, self.constraints)
        if not trials:
            raise InputError(f"{self.path}: no candidate has been evaluated yet; resume the search")
        done = sum(trial.evaluation is not None for trial in self.trials)
        failed = len(failed_candidates(self.trials))
        return Front(
            trials=trials,
            objectives=self.objectives,
            evaluated=done + failed,
            failed=failed,
            rule=RULES[self.rule],
            note=none_feasible(self.trials, self.constraints),
        )

    @property
    def pick(self) -> Trial:
        """The trial of the front that the rule of the search picks.

        Raises:
            InputError: No trial has been evaluated.
        """
        return self.front.pick

    @cached_property
    def synthetic(self) -> tuple[Anomaly, ...]:
        """The synthetic anomalies of the search; none if it has none.

        Raises:
            InputError: A file is missing or has changed.
        """
        return read_synthetic(self.path, self.data, drawn=self.draws)

    def trial(self, number: int) -> Trial:
        """An evaluated trial.

        Raises:
            InputError: There is no such trial, or it has no result.
        """
        for trial in self.trials:
            if trial.number == number:
                if trial.evaluation is None:
                    raise InputError(f"{self.path}: trial {number} has no result: {trial.reason}")
                return trial
        last = len(self.trials) - 1
        expected = f"expected 0 to {last}" if self.trials else "the search has none yet"
        raise InputError(f"{self.path}: no trial {number}, {expected}")

    @property
    def good(self) -> tuple[Sample, ...]:
        """The good images that detectors are fitted on, see `Split.good`."""
        return self.split.good

    def require_same_data(self) -> None:
        """Checks that images, masks, roles, types and groups have not changed since the search.

        Raises:
            InputError: The data set is missing, or something has changed.
        """
        if not self.data.is_dir():
            raise InputError(f"{self.data}: the data set of {self.path} is missing; give `data`")
        require_same_data(self.path, Manifest.of(self.split, self.data), self.data)

    def require_own(self, detector: Detector) -> None:
        """Checks that a detector belongs to this run.

        Raises:
            InputError: The detector was fitted on other images, reads images differently, or has
                other weights.
        """
        if detector.data_digest != self.data_digest:
            raise InputError(
                f"the detector was fitted on other images than those of {self.path}, so it may "
                "have seen its test set"
            )
        own, other = self.reading.describe_images(), detector.reading.describe_images()
        if own != other:
            raise InputError(
                f"the detector reads images with {other}, expected {own} as in {self.path}"
            )
        if detector.weights_sha256 != self.weights_sha256:
            raise InputError(
                f"the detector has other weights than {self.path}: {detector.provenance} "
                f"(SHA-256 {detector.weights_sha256[:8]}), expected {self.supernet.provenance} "
                f"({self.weights_sha256[:8]})"
            )

    def fit_architecture(
        self,
        architecture: Architecture,
        *,
        false_alarm_rate: float = 0.05,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> Detector:
        """Fits an architecture on the good images of the run, without any checks; saves nothing.

        All of `good` is in the memory bank. Folds of it set the threshold, see `Detector.fit`; if
        the split has calibration images, these set it.

        Args:
            architecture: An architecture of the run's supernet.
            false_alarm_rate: Share of good images that may be called anomalous.
            device: Device of the detector.
            progress: Called after every batch of images.
        """
        good, calibration = self.good, [sample.image for sample in self.split.calibration]
        return Detector.fit(
            [sample.image for sample in good],
            supernet=self.supernet,
            architecture=architecture,
            calibration=calibration or None,
            groups=None if calibration else [sample.group for sample in good],
            false_alarm_rate=false_alarm_rate,
            seed=self.seed,
            defects=self.split.validation if architecture.head.defects else (),
            data_digest=self.data_digest,
            reading=self.reading,
            warn=False,  # the search has warned about these images
            device=device,
            progress=progress,
        )
