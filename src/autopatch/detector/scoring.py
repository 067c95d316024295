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
from autopatch.detector.steps import STEPS, ScoreTransform

_DISTANCES_AT_A_TIME = 2**31  # about a second on a CPU, between two calls of `told`


@dataclass(frozen=True)
class FittedHead:
    """A head fitted on good images; turns feature maps into anomaly maps.

    Attributes:
        aggregator: Turns feature maps into patch features.
        memory: The memory bank; turns patch features into distances to good patches.
        score_steps: Steps on the distances.
        map_steps: Steps on the anomaly maps.
        size: Side of the anomaly maps in pixels.
    """

    aggregator: PatchAggregator
    memory: MemoryBank
    score_steps: nn.ModuleList
    map_steps: nn.ModuleList
    size: int

    @classmethod
    def of(
        cls, head: Head, aggregator: PatchAggregator, memory: MemoryBank, size: int
    ) -> FittedHead:
        """Makes the modules of a head. The steps on distances are not fitted yet.

        Args:
            head: The settings.
            aggregator: Its aggregator.
            memory: Its memory bank.
            size: Side of the anomaly maps in pixels.
        """
        steps = [(STEPS[name], value) for name, value in head.active_steps()]
        scores = [step.scores(value, memory.bank.shape[1]) for step, value in steps]
        maps = [step.maps(value, size) for step, value in steps]
        return cls(
            aggregator=aggregator,
            memory=memory,
            score_steps=nn.ModuleList(s for s in scores if s is not None).to(memory.bank.device),
            map_steps=nn.ModuleList(m for m in maps if m is not None).to(memory.bank.device),
            size=size,
        )

    def anomaly_maps(
        self,
        feature_maps: Sequence[torch.Tensor],
        told: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Anomaly maps of images.

        Args:
            feature_maps: One tensor `[N, C_l, H_l, W_l]` per level, float32.
            told: Called every few images with the number of images done, and their total.

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
            patches: torch.Tensor = self.aggregator(batch)
            maps.append(self.score(patches.reshape(-1, height, width, patches.shape[1])))
            done += len(batch[0])
            if told is not None:
                told(done, len(feature_maps[0]))
        return torch.cat(maps)

    def score(self, patches: torch.Tensor) -> torch.Tensor:
        """Anomaly maps of patch features.

        The squared distances to the nearest neighbor in the bank go through the steps on distances,
        are resized bilinearly, and go through the steps on anomaly maps.

        Args:
            patches: `[N, H, W, D]`, float32.

        Returns:
            `[N, size, size]`, float32.
        """
        count, height, width, _ = patches.shape
        rows = patches.flatten(0, 2)
        scores: torch.Tensor = self.memory(rows)
        for step in self.score_steps:
            scores = step(rows, scores)
        maps = F.interpolate(
            scores.reshape(count, 1, height, width),
            size=(self.size, self.size),
            mode="bilinear",
            align_corners=False,
        ).squeeze(1)
        for step in self.map_steps:
            maps = step(maps)
        return maps


def fit_head(
    feature_maps: Sequence[torch.Tensor], head: Head, *, size: int, seed: int = 0
) -> FittedHead:
    """Fits the steps and the memory bank of a head.

    The bank keeps all patches if the bank size is None, or at least their number. Otherwise it is a
    coreset of a random sample of at most `MAX_CORESET_SAMPLE` patches. The steps are fitted on the
    same patches.

    Args:
        feature_maps: Maps of good images, one tensor `[N, C_l, H_l, W_l]` per level, float32. The
            result is on their device.
        head: The settings. The bank size is at most `MAX_CORESET_SAMPLE`, or None.
        size: Side of the anomaly maps in pixels.
        seed: Seed of the sample and of the first patch of the coreset.

    Raises:
        ValueError: The bank size is above `MAX_CORESET_SAMPLE`, and there are more patches.
    """
    height, width = grid(feature_maps)
    count = len(feature_maps[0]) * height * width
    sample = torch.arange(count, device="cpu")
    if head.bank_size is not None and head.bank_size < count:
        if head.bank_size > MAX_CORESET_SAMPLE:
            raise ValueError(
                f"`bank_size` is {head.bank_size}, expected at most {MAX_CORESET_SAMPLE} or None "
                "for all"
            )
        if count > MAX_CORESET_SAMPLE:
            generator = torch.Generator("cpu").manual_seed(seed)
            order = torch.randperm(count, generator=generator, device="cpu")
            sample = order[:MAX_CORESET_SAMPLE].sort().values
    pooled = _sampled_patches(feature_maps, head.patch_sizes, sample)
    aggregator = PatchAggregator.of(head, [m.shape[1] for m in feature_maps]).to(pooled.device)
    patches = aggregator.fit(pooled)
    memory = MemoryBank.fit(patches, bank_size=head.bank_size, seed=seed)
    fitted = FittedHead.of(head, aggregator, memory, size)
    for step in fitted.score_steps:
        assert isinstance(step, ScoreTransform)
        step.fit(patches)
    return fitted


def _batches(
    feature_maps: Sequence[torch.Tensor], size: int | None = None
) -> list[tuple[torch.Tensor, ...]]:
    size = size or images_at_a_time(feature_maps[0].device)
    return list(zip(*(m.split(size) for m in feature_maps), strict=True))


def _sampled_patches(
    feature_maps: Sequence[torch.Tensor], patch_sizes: Sequence[int], sample: torch.Tensor
) -> torch.Tensor:
    """Pooled features of the patches with the sorted numbers `sample`; others are dropped early."""
    pooled = PatchAggregator(patch_sizes)
    rows = []
    first = 0
    for batch in _batches(feature_maps):
        patches = pooled(batch)
        bounds = torch.searchsorted(sample, sample.new_tensor([first, first + len(patches)]))
        chosen = sample[bounds[0] : bounds[1]] - first
        rows.append(patches if len(chosen) == len(patches) else patches[chosen.to(patches.device)])
        first += len(patches)
    return torch.cat(rows)
