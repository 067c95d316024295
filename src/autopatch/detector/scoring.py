"""From feature maps to anomaly maps: a head fitted on good images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from autopatch.detector.extractor import PatchAggregator, grid, images_at_a_time
from autopatch.detector.head import Head
from autopatch.detector.memory import MAX_CORESET_SAMPLE, MemoryBank
from autopatch.detector.steps import STEPS

_DISTANCES_AT_A_TIME = 2**31  # about a second of a CPU, after which one may be told how far it is


@dataclass(frozen=True)
class FittedHead:
    """What becomes of feature maps, fitted on those of good images.

    Attributes:
        aggregator: Makes patch features of them.
        memory: Compares these with those of good images.
        map_steps: Steps on the anomaly maps.
        size: Side of the anomaly maps.
    """

    aggregator: PatchAggregator
    memory: MemoryBank
    map_steps: nn.ModuleList
    size: int

    def anomaly_maps(
        self,
        feature_maps: Sequence[torch.Tensor],
        told: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Squared distance of each patch to its nearest neighbor, resized bilinearly.

        Args:
            feature_maps: One `[N, C_l, H_l, W_l]` a level.
            told: Called after some images with how many are done, and how many there are.

        Returns:
            `[N, size, size]`, float32.
        """
        height, width = grid(feature_maps)
        images = images_at_a_time(self.memory.bank.device)
        if not self.memory.bank.is_cuda:
            of_one_image = height * width * len(self.memory)
            images = min(max(_DISTANCES_AT_A_TIME // of_one_image, 1), images)
        maps = []
        done = 0
        for batch in _batches(feature_maps, images):
            distances = self.memory(self.aggregator(batch)).reshape(-1, height, width)
            maps.append(to_anomaly_maps(distances, self.map_steps, self.size))
            done += len(batch[0])
            if told is not None:
                told(done, len(feature_maps[0]))
        return torch.cat(maps)


def to_anomaly_maps(distances: torch.Tensor, steps: nn.ModuleList, size: int) -> torch.Tensor:
    """Anomaly maps `[N, size, size]` of distances `[N, H, W]`: resized, then what the steps do."""
    resized = F.interpolate(
        distances.unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False
    )
    maps = resized.squeeze(1)
    for step in steps:
        maps = step(maps)
    return maps


def map_steps(head: Head, size: int) -> nn.ModuleList:
    """The head's steps on anomaly maps `[N, size, size]`."""
    steps = (STEPS[name].maps(value, size) for name, value in head.active_steps())
    return nn.ModuleList(step for step in steps if step is not None)


def fit_head(
    feature_maps: Sequence[torch.Tensor], head: Head, *, size: int, seed: int = 0
) -> FittedHead:
    """Fits the steps and the memory bank.

    The coreset is taken of a random sample of at most `MAX_CORESET_SAMPLE` patches, on which the
    steps are fitted too. All patches are kept where the bank size is None or there are no more.

    Args:
        feature_maps: Of good images, one `[N, C_l, H_l, W_l]` a level; all stays on their device.
        head: What to fit; its bank size is at most `MAX_CORESET_SAMPLE`, or None.
        size: Side of the anomaly maps.
        seed: Of the sample and of the first patch of the coreset.

    Raises:
        ValueError: The bank size is larger than that, and there are more patches.
    """
    height, width = grid(feature_maps)
    count = len(feature_maps[0]) * height * width
    if head.bank_size is None or head.bank_size >= count:
        sample = torch.arange(count)
    elif head.bank_size > MAX_CORESET_SAMPLE:
        raise ValueError(
            f"`bank_size` is {head.bank_size}, expected at most {MAX_CORESET_SAMPLE} or None for "
            "all"
        )
    else:
        sample = torch.arange(count)
        if count > MAX_CORESET_SAMPLE:
            generator = torch.Generator().manual_seed(seed)
            sample = torch.randperm(count, generator=generator)[:MAX_CORESET_SAMPLE].sort().values
    patches = _sampled_patches(feature_maps, head.patch_sizes, sample)
    aggregator = PatchAggregator.of(head, [m.shape[1] for m in feature_maps])
    aggregator.to(patches.device)
    return FittedHead(
        aggregator=aggregator,
        memory=MemoryBank.fit(aggregator.fit(patches), bank_size=head.bank_size, seed=seed),
        map_steps=map_steps(head, size).to(patches.device),
        size=size,
    )


def _batches(
    feature_maps: Sequence[torch.Tensor], size: int | None = None
) -> list[tuple[torch.Tensor, ...]]:
    size = size or images_at_a_time(feature_maps[0].device)
    return list(zip(*(m.split(size) for m in feature_maps), strict=True))


def _sampled_patches(
    feature_maps: Sequence[torch.Tensor], patch_sizes: Sequence[int], sample: torch.Tensor
) -> torch.Tensor:
    """Pooled features of the sorted row numbers `sample`, without holding those of all rows."""
    pooled = PatchAggregator(patch_sizes)
    rows = []
    first = 0
    for batch in _batches(feature_maps):
        patches = pooled(batch)
        bounds = torch.searchsorted(sample, torch.tensor([first, first + len(patches)]))
        chosen = sample[bounds[0] : bounds[1]] - first
        rows.append(patches if len(chosen) == len(patches) else patches[chosen.to(patches.device)])
        first += len(patches)
    return torch.cat(rows)
