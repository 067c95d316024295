"""The evaluator of candidates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    Reading,
    Sample,
    load_masks,
)
from autopatch.detector import Architecture, fit_head, score_maps
from autopatch.progress import Progress
from autopatch.search.evaluation import CallbackError, Evaluation
from autopatch.search.feature_maps import FeatureMaps
from autopatch.search.objectives import (
    FittedCandidate,
    Objective,
    measure_objectives,
    resolve_objectives,
)
from autopatch.supernet import Supernet


class CandidateEvaluator:
    """Fits a memory bank on good images for each architecture and scores it on labeled ones.

    Args:
        supernet: The supernet.
        fit: Good images for the bank.
        scored: Labeled images for the metrics.
        objectives: What an evaluation measures; the objectives of the supernet's default preset if
            None.
        seed: Seed of the bank's sample and coreset.
        evaluation_size: Side in pixels of the maps and masks that are compared, for every image
            size.
        cache_bytes: Maximum size of the feature-map cache in bytes.
        reading: How image and mask files become pixels.
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
        objectives: Sequence[Objective] | None = None,
        seed: int = 0,
        evaluation_size: int = EVALUATION_SIZE,
        cache_bytes: int = 4 << 30,
        reading: Reading = DEFAULT_READING,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self._supernet = supernet
        self._fit_images = len(fit)
        self._types = [sample.type for sample in scored]
        self._masks = load_masks(scored, evaluation_size, reading).to(device)
        self._feature_maps = FeatureMaps(
            supernet,
            fit=fit,
            scored=scored,
            cache_bytes=cache_bytes,
            reading=reading,
            device=device,
        )
        self._cache_bytes = cache_bytes
        self._objectives = objectives or resolve_objectives(supernet.presets["default"].objectives)
        self._seed = seed
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

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Evaluates an architecture.

        Timings are totals over all fit and scored images; "features" is short if the maps come from
        the cache. All bank sizes at or above the number of patches give the same detector, which is
        evaluated once.

        Raises:
            CallbackError: If `progress` raises an exception.
        """
        height, width = self._supernet.grid(architecture.backbone, architecture.input.size)
        patches = self._fit_images * height * width
        head = architecture.head
        if head.bank_size is not None and head.bank_size >= patches:
            architecture = replace(architecture, head=replace(head, bank_size=None))
        if architecture not in self._scored:
            self._scored[architecture] = self._score(architecture)
        return self._scored[architecture]

    def _score(self, architecture: Architecture) -> Evaluation:
        started = self._now()
        maps = self._feature_maps.get(architecture)
        seen = self._now()
        head = fit_head(
            [m[: self._fit_images] for m in maps],
            architecture.head,
            size=self._evaluation_size,
            seed=self._seed,
        )
        fitted = self._now()
        anomaly_maps = head.anomaly_maps([m[self._fit_images :] for m in maps], self._told)
        compared = self._now()
        metrics = score_maps(anomaly_maps, self._masks, self._types)
        candidate = FittedCandidate(
            supernet=self._supernet,
            architecture=architecture,
            head=head,
            metrics=metrics,
        )
        return Evaluation(
            values=measure_objectives(self._objectives, candidate),
            metrics=metrics,
            timings={
                "features": seen - started,
                "bank": fitted - seen,
                "neighbors": compared - fitted,
                "metrics": self._now() - compared,
            },
        )

    def _now(self) -> float:
        """Clock time in seconds, read after the device has finished its work."""
        if self._masks.is_cuda:
            torch.cuda.synchronize(self._masks.device)
        return time.perf_counter()


def _report(progress: Progress, done: int, total: int) -> None:
    try:
        progress("nearest neighbors", done, total)
    except Exception as error:
        raise CallbackError(error) from error
