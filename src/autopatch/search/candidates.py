"""Scoring candidates of a fixed backbone: feature maps once, then a bank for each candidate."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from autopatch.data import EVALUATION_SIZE, Sample, load_images, load_masks
from autopatch.detector import MemoryBank, score_maps, stack_maps, total_flops
from autopatch.search.evaluation import Evaluation
from autopatch.supernet import Architecture, TimmSupernet

_IMAGES_AT_A_TIME = 16


class FeatureMaps:
    """Feature maps of a fixed list of images, computed when first asked for and then kept.

    The backbone is the same for every candidate, so its maps depend on the image size alone. Maps
    of all levels are kept by image size, least recently used ones dropped first, within
    `cache_bytes`; maps of a size that does not fit on its own are computed anew each time, for the
    levels asked for, and let go with the candidate. What is in use is in memory whatever the limit.

    Args:
        supernet: The backbone.
        samples: The images.
        cache_bytes: Memory for maps that are kept.
    """

    def __init__(
        self, supernet: TimmSupernet, samples: Sequence[Sample], *, cache_bytes: int
    ) -> None:
        self._supernet = supernet
        self._paths = [sample.path for sample in samples]
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[int, dict[int, torch.Tensor]] = OrderedDict()

    def get(self, image_size: int, levels: Sequence[int]) -> list[torch.Tensor]:
        """Maps `[N, C_l, H_l, W_l]` of the levels, channels last in memory."""
        if image_size not in self._cache:
            every_level = [level.index for level in self._supernet.levels]
            needed = self.bytes_needed(image_size)
            if needed > self._cache_bytes:
                return self._compute(image_size, levels)
            while sum(map(self.bytes_needed, self._cache)) + needed > self._cache_bytes:
                self._cache.popitem(last=False)
            maps = self._compute(image_size, every_level)
            self._cache[image_size] = dict(zip(every_level, maps, strict=True))
        self._cache.move_to_end(image_size)
        return [self._cache[image_size][level] for level in levels]

    def bytes_needed(self, image_size: int) -> int:
        """Memory of all levels' maps at an image size."""
        floats = sum(
            level.channels * height * width
            for level, (height, width) in (
                (level, self._supernet.grid([level.index], image_size))
                for level in self._supernet.levels
            )
        )
        return 4 * floats * len(self._paths)

    def _compute(self, image_size: int, levels: Sequence[int]) -> list[torch.Tensor]:
        subnet = self._supernet.get_active_subnet(levels)

        def batches() -> Iterator[list[torch.Tensor]]:
            for first in range(0, len(self._paths), _IMAGES_AT_A_TIME):
                images = load_images(self._paths[first : first + _IMAGES_AT_A_TIME], image_size)
                with torch.inference_mode():
                    maps: list[torch.Tensor] = subnet(subnet.normalize(images))
                yield maps

        return stack_maps(batches(), len(self._paths))


class CandidateEvaluator:
    """Fits a memory bank on good images for each architecture and scores it on labelled ones.

    Args:
        supernet: The backbone.
        fit: Good images for the bank.
        scored: Labelled images for the metrics.
        seed: Of the bank's sample and coreset.
        evaluation_size: Side at which maps and masks are compared, whatever the image size.
        cache_bytes: Memory for feature maps that are kept.
    """

    def __init__(
        self,
        supernet: TimmSupernet,
        *,
        fit: Sequence[Sample],
        scored: Sequence[Sample],
        seed: int = 0,
        evaluation_size: int = EVALUATION_SIZE,
        cache_bytes: int = 4 << 30,
    ) -> None:
        self._supernet = supernet
        self._fit_images = len(fit)
        self._types = [sample.type for sample in scored]
        self._masks = load_masks(scored, evaluation_size)
        self._feature_maps = FeatureMaps(supernet, [*fit, *scored], cache_bytes=cache_bytes)
        self._cache_bytes = cache_bytes
        self._seed = seed
        self._evaluation_size = evaluation_size
        self._scored: dict[Architecture, Evaluation] = {}

    def too_large_to_keep(self, image_sizes: Sequence[int]) -> dict[int, int]:
        """Image sizes whose feature maps do not fit the memory for them, with the bytes they need:
        those maps are computed anew for each candidate."""
        needed = {size: self._feature_maps.bytes_needed(size) for size in image_sizes}
        return {size: count for size, count in needed.items() if count > self._cache_bytes}

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Timings are those of all fit and scored images together; "features" is short where the
        maps were kept from an earlier candidate. Bank sizes of no fewer than the patches there are
        make one detector, which is scored once."""
        height, width = self._supernet.grid(architecture.levels, architecture.image_size)
        patches = self._fit_images * height * width
        if architecture.bank_size is not None and architecture.bank_size >= patches:
            architecture = replace(architecture, bank_size=None)
        if architecture not in self._scored:
            self._scored[architecture] = self._score(architecture)
        return self._scored[architecture]

    def _score(self, architecture: Architecture) -> Evaluation:
        started = time.perf_counter()
        maps = self._feature_maps.get(architecture.image_size, architecture.levels)
        seen = time.perf_counter()
        memory = MemoryBank.fit(
            [m[: self._fit_images] for m in maps],
            architecture.patch_sizes,
            bank_size=architecture.bank_size,
            seed=self._seed,
        )
        fitted = time.perf_counter()
        anomaly_maps = memory.anomaly_maps(
            [m[self._fit_images :] for m in maps], self._evaluation_size
        )
        compared = time.perf_counter()
        metrics = score_maps(anomaly_maps, self._masks, self._types)
        return Evaluation(
            total_flops=architecture_flops(self._supernet, architecture, len(memory.bank)),
            metrics=metrics,
            timings={
                "features": seen - started,
                "bank": fitted - seen,
                "neighbors": compared - fitted,
                "metrics": time.perf_counter() - compared,
            },
        )


def architecture_flops(supernet: TimmSupernet, architecture: Architecture, bank_rows: int) -> int:
    """FLOPs an image of a detector: its backbone and its nearest neighbors in `bank_rows` rows."""
    height, width = supernet.grid(architecture.levels, architecture.image_size)
    channels = sum(
        level.channels for level in supernet.levels if level.index in architecture.levels
    )
    return total_flops(
        supernet.flops(architecture.levels, architecture.image_size),
        height * width,
        bank_rows,
        channels,
    )
