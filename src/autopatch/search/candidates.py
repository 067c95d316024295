"""Scoring candidates: feature maps, kept where they serve several, and a bank for each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch

from autopatch.data import EVALUATION_SIZE, Sample, load_masks
from autopatch.detector import (
    MemoryBank,
    cut_subnet,
    feature_maps,
    score_maps,
    stack_maps,
    total_flops,
)
from autopatch.errors import InputError
from autopatch.progress import Progress
from autopatch.search.evaluation import Evaluation
from autopatch.supernet import Architecture, Supernet


class FeatureMaps:
    """Feature maps of a fixed list of images, computed when first asked for and then kept.

    Where architectures differ in their levels alone, the maps of all levels are computed and kept
    together. The least recently used maps are dropped first, within `cache_bytes`; maps that do not
    fit on their own are computed anew each time, for the levels asked for, and let go with the
    candidate. What is in use is in memory whatever the limit.

    Args:
        supernet: The backbones.
        fit: Good images; batch norm is recalibrated on them where the supernet asks for that.
        scored: The other images.
        cache_bytes: Memory for maps that are kept.
        device: Where they are computed and kept.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        fit: Sequence[Sample],
        scored: Sequence[Sample],
        cache_bytes: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._supernet = supernet
        self._device = device
        self._fit = [sample.path for sample in fit]
        self._paths = [*self._fit, *(sample.path for sample in scored)]
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[Architecture, dict[int, torch.Tensor]] = OrderedDict()

    def get(self, architecture: Architecture) -> list[torch.Tensor]:
        """Maps `[N, C_l, H_l, W_l]` of the architecture's levels, channels last in memory; those of
        the fit images first."""
        whole = self._kept_together(architecture)
        if whole not in self._cache:
            needed = self.bytes_needed(whole)
            if needed > self._cache_bytes:
                return self._compute(architecture)
            while sum(map(self.bytes_needed, self._cache)) + needed > self._cache_bytes:
                self._cache.popitem(last=False)
            self._cache[whole] = dict(zip(whole.levels, self._compute(whole), strict=True))
        self._cache.move_to_end(whole)
        return [self._cache[whole][level] for level in architecture.levels]

    def bytes_needed(self, architecture: Architecture) -> int:
        """Memory of the maps that are kept together with those of an architecture."""
        whole = self._kept_together(architecture)
        floats = 0
        for level in self._supernet.chosen_levels(whole):
            one = replace(whole, levels=(level.index,), patch_sizes=(1,))
            height, width = self._supernet.grid(one)
            floats += level.channels * height * width
        return 4 * floats * len(self._paths)

    def _kept_together(self, architecture: Architecture) -> Architecture:
        levels = self._supernet.shared_levels or architecture.levels
        ones = (1,) * len(levels)  # neither patch sizes nor the bank matter to the maps
        return replace(architecture, levels=levels, patch_sizes=ones, bank_size=None)

    def _compute(self, architecture: Architecture) -> list[torch.Tensor]:
        subnet = cut_subnet(self._supernet, architecture, self._fit, self._device)
        batches = feature_maps(subnet, architecture.image_size, self._paths)
        return stack_maps(batches, len(self._paths))


class CandidateEvaluator:
    """Fits a memory bank on good images for each architecture and scores it on labelled ones.

    Args:
        supernet: The backbones.
        fit: Good images for the bank.
        scored: Labelled images for the metrics.
        cost: What an evaluation's cost is, a key of `COSTS`.
        seed: Of the bank's sample and coreset.
        evaluation_size: Side at which maps and masks are compared, whatever the image size.
        cache_bytes: Memory for feature maps that are kept.
        device: Where everything but the reading of images runs.
        progress: Told how far the nearest neighbors of a candidate are, which take longest.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        fit: Sequence[Sample],
        scored: Sequence[Sample],
        cost: str = "total_flops",
        seed: int = 0,
        evaluation_size: int = EVALUATION_SIZE,
        cache_bytes: int = 4 << 30,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self._supernet = supernet
        self._fit_images = len(fit)
        self._types = [sample.type for sample in scored]
        self._masks = load_masks(scored, evaluation_size).to(device)
        self._feature_maps = FeatureMaps(
            supernet, fit=fit, scored=scored, cache_bytes=cache_bytes, device=device
        )
        self._cache_bytes = cache_bytes
        self._cost = cost
        self._seed = seed
        self._told = None if progress is None else partial(progress, "nearest neighbors")
        self._evaluation_size = evaluation_size
        self._scored: dict[Architecture, Evaluation] = {}

    def too_large_to_keep(self, architectures: Iterable[Architecture]) -> dict[int, int]:
        """Image sizes of architectures whose feature maps do not fit the memory for them, with the
        bytes they need: those maps are computed anew for each candidate."""
        needed = {a.image_size: self._feature_maps.bytes_needed(a) for a in architectures}
        return {size: count for size, count in needed.items() if count > self._cache_bytes}

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Timings are those of all fit and scored images together; "features" is short where the
        maps were kept from an earlier candidate. Bank sizes of no fewer than the patches there are
        make one detector, which is scored once."""
        height, width = self._supernet.grid(architecture)
        patches = self._fit_images * height * width
        if architecture.bank_size is not None and architecture.bank_size >= patches:
            architecture = replace(architecture, bank_size=None)
        if architecture not in self._scored:
            self._scored[architecture] = self._score(architecture)
        return self._scored[architecture]

    def _score(self, architecture: Architecture) -> Evaluation:
        started = self._now()
        maps = self._feature_maps.get(architecture)
        seen = self._now()
        memory = MemoryBank.fit(
            [m[: self._fit_images] for m in maps],
            architecture.patch_sizes,
            bank_size=architecture.bank_size,
            seed=self._seed,
        )
        fitted = self._now()
        anomaly_maps = memory.anomaly_maps(
            [m[self._fit_images :] for m in maps], self._evaluation_size, self._told
        )
        compared = self._now()
        metrics = score_maps(anomaly_maps, self._masks, self._types)
        return Evaluation(
            cost=architecture_cost(self._supernet, architecture, len(memory.bank), self._cost),
            metrics=metrics,
            timings={
                "features": seen - started,
                "bank": fitted - seen,
                "neighbors": compared - fitted,
                "metrics": self._now() - compared,
            },
        )

    def _now(self) -> float:
        """Seconds, once the device has done what was asked of it."""
        if self._masks.is_cuda:
            torch.cuda.synchronize(self._masks.device)
        return time.perf_counter()


def architecture_cost(
    supernet: Supernet, architecture: Architecture, bank_rows: int, cost: str
) -> int:
    """FLOPs an image of a detector.

    Args:
        supernet: The backbones.
        architecture: Of the detector.
        bank_rows: Patches in its bank.
        cost: A key of `COSTS`.

    Raises:
        InputError: The backbone has no published FLOPs.
    """
    if cost == "published_flops":
        published = supernet.published_cost(architecture)
        if published is None:
            raise InputError(f"{supernet.name} has no published FLOPs, only total FLOPs")
        return published.flops
    height, width = supernet.grid(architecture)
    channels = sum(level.channels for level in supernet.chosen_levels(architecture))
    return total_flops(supernet.flops(architecture), height * width, bank_rows, channels)
