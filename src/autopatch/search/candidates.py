"""The evaluator of candidates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    Anomaly,
    Cache,
    ImageReader,
    Reading,
    Sample,
    group_of,
    load_masks,
)
from autopatch.detector import (
    Architecture,
    Detector,
    GoodMaps,
    feature_maps,
    head_of_coreset,
    stack_maps,
)
from autopatch.progress import Progress
from autopatch.search.constraints import Constraint
from autopatch.search.coresets import Coresets
from autopatch.search.evaluation import CallbackError, Evaluation
from autopatch.search.feature_maps import FeatureMaps, SharedWork
from autopatch.search.latency import LatencyTable
from autopatch.search.objectives import (
    DEFAULT_OBJECTIVES,
    FittedCandidate,
    Objective,
    measure_objectives,
    resolve_objectives,
    unseen,
)
from autopatch.search.shots import Shots
from autopatch.search.validation import ValidationMetrics
from autopatch.supernet import Supernet


class CandidateEvaluator:
    """Fits a memory bank on good images for each architecture and scores it on labeled ones.

    Args:
        supernet: The supernet.
        fit: Good images for the bank.
        scored: Labeled images for the metrics.
        shots: Anomalous images that candidates with a weight for known defects keep; see `Shots`.
        held_out: Good images outside `fit`, which show the usual distances of good patches; needed
            with shots.
        synthetic: Synthetic anomalies, drawn on the good images among `scored`; see
            `ValidationMetrics`.
        objectives: What an evaluation measures; `DEFAULT_OBJECTIVES` if None.
        constraints: What it measures besides, to compare with bounds.
        latency_table: What the latency is read from, if an objective or a constraint is on it.
        evaluation_size: Side in pixels of the maps and masks that are compared, for every image
            size.
        cache_bytes: Memory for the decoded images, feature maps and coresets that candidates
            share, in bytes.
        reading: How image and mask files become pixels.
        intervals: Whether to compute intervals of the metrics.
        device: Device for everything but reading images.
        progress: Called during the slowest step of a candidate, its nearest-neighbor search. An
            exception that it raises ends a search.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        fit: Sequence[Sample],
        scored: Sequence[Sample],
        shots: Sequence[Sample] = (),
        held_out: Sequence[Sample] = (),
        synthetic: Sequence[Anomaly] = (),
        objectives: Sequence[Objective] | None = None,
        constraints: Sequence[Constraint] = (),
        latency_table: LatencyTable | None = None,
        evaluation_size: int = EVALUATION_SIZE,
        cache_bytes: int = 4 << 30,
        reading: Reading = DEFAULT_READING,
        intervals: bool = True,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self._supernet = supernet
        self._device = torch.device(device)
        self._shots = Shots(shots, scored, reading, synthetic, held_out)
        searched = self._shots.searched
        others = list(dict.fromkeys([*searched, *shots]))
        self._of_fit = range(len(fit))
        place = {sample: len(fit) + index for index, sample in enumerate(others)}
        self._of_searched, self._of_shots = (
            [place[sample] for sample in part] for part in (searched, shots)
        )
        self._of_unseen = [place[sample] for sample in unseen(scored)]
        types = [searched[place].type for place in self._shots.images]
        masks = self._shots.chosen(load_masks(searched, evaluation_size, reading))
        own_group = {anomaly.sample: anomaly.source for anomaly in synthetic}
        groups = [group_of(own_group.get(sample, sample)) for sample in searched]
        self._metrics = ValidationMetrics(
            masks,
            types,
            [groups[place] for place in self._shots.images],
            scored=len(scored),
            shots=[shot for shot in shots if shot in set(scored)],
            transplants={a.sample.type for a in synthetic if a.shot is not None},
            intervals=intervals,
            device=device,
        )
        cache = Cache(cache_bytes)
        self._feature_maps = FeatureMaps(
            supernet,
            fit=fit,
            scored=others,
            cache=cache,
            reading=reading,
            device=device,
        )
        self._cache_bytes = cache_bytes
        self._objectives = objectives or resolve_objectives(DEFAULT_OBJECTIVES)
        self._bounded = [constraint.objective for constraint in constraints]
        self._latency_table = latency_table
        self._coresets = Coresets(cache)
        self._told = None if progress is None else partial(_report, progress)
        self._evaluation_size = evaluation_size
        self._scored: dict[Architecture, Evaluation] = {}

    def too_large_to_keep(self, architectures: Iterable[Architecture]) -> dict[int, int]:
        """Finds image sizes whose feature maps exceed the cache.

        Returns:
            Bytes of the maps by image size.
        """
        needed = {a.input.size: self._feature_maps.bytes_needed(a) for a in architectures}
        return {size: count for size, count in needed.items() if count > self._cache_bytes}

    @property
    def shared_work(self) -> SharedWork:
        """The work on feature maps that was done so far, and the work that sharing saved."""
        return self._feature_maps.work

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Evaluates an architecture.

        Timings are totals over all fit and scored images; "features" is short if the maps come from
        the cache. `Evaluation.reuse` has the shares of images that were not decoded again
        ("images"), of segments of the backbone that were not run again ("feature_maps"), and of
        coresets that were not chosen again ("coresets"). If candidates are evaluated in threads,
        these are the shares of all that run at the same time.

        All bank sizes at or above the number of patches give the same detector, which is evaluated
        once; later results have no timings and shares.

        Raises:
            CallbackError: If `progress` raises an exception.
        """
        height, width = self._supernet.grid(architecture.backbone, architecture.input.size)
        patches = len(self._of_fit) * height * width
        architecture = replace(architecture, head=architecture.head.for_patches(patches))
        if architecture in self._scored:
            return replace(self._scored[architecture], timings={}, reuse={})
        self._scored[architecture] = self._score(architecture)
        return self._scored[architecture]

    def _score(self, architecture: Architecture) -> Evaluation:
        started, work = self._now(), self._counts()
        maps = self._feature_maps.get(architecture)
        seen = self._now()
        good = GoodMaps.of(_taken(maps, self._of_fit))
        aggregator, coreset = self._coresets.get(architecture, good)
        head = head_of_coreset(
            good, architecture.head, aggregator, coreset, size=self._evaluation_size
        )
        fitted = self._now()
        searched = _taken(maps, self._of_searched)
        if architecture.head.defects is None or not len(self._shots):
            anomaly_maps = self._shots.anomaly_maps(head, searched, self._told)
        else:
            head, anomaly_maps = self._shots.anomaly_maps_knowing(
                head,
                searched,
                shots=_taken(maps, self._of_shots),
                told=self._told,
            )
        compared = self._now()
        found = self._metrics(anomaly_maps)
        candidate = FittedCandidate(
            supernet=self._supernet,
            architecture=architecture,
            head=head,
            metrics=found.metrics,
            maps=_taken(maps, self._of_unseen),
            latency_table=self._latency_table,
        )
        measured = measure_objectives(dict.fromkeys((*self._objectives, *self._bounded)), candidate)
        return Evaluation(
            values={objective.name: measured[objective.name] for objective in self._objectives},
            bounded={objective.name: measured[objective.name] for objective in self._bounded},
            metrics=found.metrics,
            resampled=found.resampled,
            timings={
                "features": seen - started,
                "bank": fitted - seen,
                "neighbors": compared - fitted,
                "metrics": self._now() - compared,
            },
            reuse=self._reuse(work),
        )

    def _reuse(self, before: Mapping[str, tuple[int, int]]) -> dict[str, float]:
        """The shares of the work since `before` that were in the cache."""
        shares = {}
        for name, (done, reused) in self._counts().items():
            done, reused = done - before[name][0], max(reused - before[name][1], 0)
            if done + reused:
                shares[name] = reused / (done + reused)
        return shares

    def _counts(self) -> dict[str, tuple[int, int]]:
        """How much work was done so far, and how much was not because it was in the cache."""
        maps = self._feature_maps.work
        return {
            "images": (maps.images_read, maps.images_reused),
            "feature_maps": (maps.computed, maps.reused),
            "coresets": (self._coresets.chosen, self._coresets.reused),
        }

    def _now(self) -> float:
        """Clock time in seconds, read after the device has finished its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def candidate_of(
    detector: Detector,
    supernet: Supernet,
    scored: Sequence[Sample],
    *,
    metrics: Mapping[str, float],
    latency_table: LatencyTable | None,
) -> FittedCandidate:
    """A fitted detector as objectives measure it.

    Args:
        detector: The detector.
        supernet: The supernet of its backbone.
        scored: Images that are not in its memory bank.
        metrics: Its metrics by name.
        latency_table: What its latency is read from, if an objective needs one.
    """
    images = [sample.image for sample in unseen(scored)]
    batches = feature_maps(
        detector.extractor.subnet,
        detector.architecture.input,
        images,
        reader=ImageReader(reading=detector.reading),
    )
    return FittedCandidate(
        supernet=supernet,
        architecture=detector.architecture,
        head=detector.head,
        metrics=metrics,
        maps=stack_maps(batches, len(images)),
        latency_table=latency_table,
    )


def _report(progress: Progress, done: int, total: int) -> None:
    try:
        progress("nearest neighbors", done, total)
    except Exception as error:
        raise CallbackError(error) from error


def _taken(maps: Sequence[torch.Tensor], images: Sequence[int]) -> list[torch.Tensor]:
    """The maps of some images; without a copy if the images are successive."""
    first = images[0] if images else 0
    if list(images) == list(range(first, first + len(images))):
        return [m[first : first + len(images)] for m in maps]
    return [m[torch.tensor(images).to(m.device)] for m in maps]
