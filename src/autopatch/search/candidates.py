"""The evaluator of candidates, and its cache of feature maps."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    ImageReader,
    Reading,
    Sample,
    load_masks,
)
from autopatch.detector import (
    Architecture,
    Head,
    cut_subnet,
    feature_maps,
    fit_head,
    score_maps,
    stack_maps,
)
from autopatch.progress import Progress
from autopatch.search.evaluation import CallbackError, Evaluation
from autopatch.search.objectives import (
    FittedCandidate,
    Objective,
    measure_objectives,
    resolve_objectives,
)
from autopatch.supernet import Supernet


class FeatureMaps:
    """A cache of the feature maps of a fixed list of images.

    Maps are computed on first use. If architectures share maps (see `Supernet.shared`), the maps of
    all their levels are computed and kept together. When the cache exceeds `cache_bytes`, the least
    recently used maps are dropped. Maps larger than the whole cache are not kept; they are
    recomputed for each candidate, at its own levels only. Maps in use do not count towards the
    limit. Decoded images are kept too. The cache can be used by several threads; only one computes
    maps at a time.

    Args:
        supernet: The supernet.
        fit: Good images. Batch norm is recalibrated on them if the supernet requires it.
        scored: Images to score, after the fit images in every map.
        cache_bytes: Maximum size of the cache in bytes.
        reading: How image files become pixels.
        device: Device of the maps.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        fit: Sequence[Sample],
        scored: Sequence[Sample],
        cache_bytes: int,
        reading: Reading = DEFAULT_READING,
        device: torch.device | str = "cpu",
    ) -> None:
        self._supernet = supernet
        self._device = device
        self._fit = [sample.image for sample in fit]
        self._images = [*self._fit, *(sample.image for sample in scored)]
        self._reader = ImageReader(reading=reading)
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[Architecture, dict[int, torch.Tensor]] = OrderedDict()
        self._lock = threading.Lock()  # an executor may use threads

    def get(self, architecture: Architecture) -> list[torch.Tensor]:
        """Maps of the architecture's levels.

        Returns:
            One tensor `[N, C_l, H_l, W_l]` per level, float32, channels last in memory; the fit
            images come first.
        """
        with self._lock:
            return self._get(architecture)

    def _get(self, architecture: Architecture) -> list[torch.Tensor]:
        whole = self._kept_together(architecture)
        if whole not in self._cache:
            needed = self.bytes_needed(whole)
            if needed > self._cache_bytes:
                return self._compute(architecture)
            while sum(map(self.bytes_needed, self._cache)) + needed > self._cache_bytes:
                self._cache.popitem(last=False)
            self._cache[whole] = dict(zip(whole.backbone.levels, self._compute(whole), strict=True))
        self._cache.move_to_end(whole)
        return [self._cache[whole][level] for level in architecture.backbone.levels]

    def bytes_needed(self, architecture: Architecture) -> int:
        """Bytes of all maps that are kept together with an architecture's maps."""
        whole = self._kept_together(architecture)
        grids = self._supernet.grids(whole.backbone.network, whole.input.size)
        floats = 0
        for level in self._supernet.levels(whole.backbone):
            height, width = grids[level.index]
            floats += level.channels * height * width
        return 4 * floats * len(self._images)

    def _kept_together(self, architecture: Architecture) -> Architecture:
        backbone = self._supernet.shared(architecture.backbone)
        # The maps do not depend on the head.
        return Architecture(architecture.input, backbone, Head((1,) * len(backbone.levels)))

    def _compute(self, architecture: Architecture) -> list[torch.Tensor]:
        subnet = cut_subnet(
            self._supernet, architecture, self._fit, self._device, reader=self._reader
        )
        batches = feature_maps(subnet, architecture.input, self._images, reader=self._reader)
        return stack_maps(batches, len(self._images))


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
