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

_DISTANCES_AT_A_TIME = 2**31  # about a second of a CPU, after which one may be told how far it is


@dataclass(frozen=True)
class FittedHead:
    """What becomes of feature maps, fitted on those of good images.

    Attributes:
        aggregator: Makes patch features of them.
        memory: Compares these with those of good images.
        score_steps: Steps on the distances.
        map_steps: Steps on the anomaly maps.
        size: Side of the anomaly maps.
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
        """The modules of a head, the steps on distances not fitted.

        Args:
            head: Its steps.
            aggregator: Of this head.
            memory: The bank.
            size: Side of the anomaly maps.
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
            patches: torch.Tensor = self.aggregator(batch)
            maps.append(self.score(patches.reshape(-1, height, width, patches.shape[1])))
            done += len(batch[0])
            if told is not None:
                told(done, len(feature_maps[0]))
        return torch.cat(maps)

    def score(self, patches: torch.Tensor) -> torch.Tensor:
        """Anomaly maps of patch features: the squared distance of each to its nearest neighbor,
        resized bilinearly, and what the steps make of it.

        Args:
            patches: `[N, H, W, D]`.

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
    sample = torch.arange(count)
    if head.bank_size is not None and head.bank_size < count:
        if head.bank_size > MAX_CORESET_SAMPLE:
            raise ValueError(
                f"`bank_size` is {head.bank_size}, expected at most {MAX_CORESET_SAMPLE} or None "
                "for all"
            )
        if count > MAX_CORESET_SAMPLE:
            generator = torch.Generator().manual_seed(seed)
            sample = torch.randperm(count, generator=generator)[:MAX_CORESET_SAMPLE].sort().values
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
