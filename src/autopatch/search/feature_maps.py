"""The cache of feature maps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch

from autopatch.data import DEFAULT_READING, ImageReader, Reading, Sample, TensorCache
from autopatch.detector import Architecture, Head, cut_subnet, feature_maps, stack_maps
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
        self._reader = ImageReader(TensorCache(1 << 30), reading)
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
