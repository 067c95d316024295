"""Fits a head on good images and turns feature maps into anomaly maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from autopatch.detector.coreset import CORESET_BYTES, Coreset, choose_coreset
from autopatch.detector.extractor import (
    GoodMaps,
    PatchAggregator,
    Repeatable,
    batches_of,
    grid,
    images_at_a_time,
)
from autopatch.detector.head import DEFAULT_DEFECT_WEIGHT, Head
from autopatch.detector.known import DefectBank
from autopatch.detector.memory import MemoryBank
from autopatch.detector.steps import STEPS, ScoreTransform
from autopatch.detector.upsampling import Upsampling
from autopatch.kernels import defect_scores

_DISTANCES_AT_A_TIME = 2**31  # about a second on a CPU


@dataclass(frozen=True)
class FittedHead:
    """A head fitted on good images; turns feature maps into anomaly maps.

    Attributes:
        aggregator: Turns feature maps into patch features.
        memory: The memory bank; turns patch features into distances to good patches.
        defects: The bank of known defects; empty if there are none.
        radius: Every patch of the fit images lies within this distance of the memory bank.
        score_steps: Steps on the distances.
        upsampling: Turns scores into anomaly maps.
        map_steps: Steps on the anomaly maps.
    """

    aggregator: PatchAggregator
    memory: MemoryBank
    defects: DefectBank
    radius: float
    score_steps: nn.ModuleList
    upsampling: Upsampling
    map_steps: nn.ModuleList

    @property
    def size(self) -> int:
        """Side of the anomaly maps in pixels."""
        return self.upsampling.size

    @classmethod
    def of(
        cls,
        head: Head,
        aggregator: PatchAggregator,
        bank: torch.Tensor,
        *,
        radius: float,
        size: int,
    ) -> FittedHead:
        """Makes the modules of a head that knows no defects. The steps on distances are not fitted
        yet.

        Args:
            head: The settings.
            aggregator: Its aggregator.
            bank: Rows of the memory bank, `[N, D]`.
            radius: Every patch of the fit images lies within this distance of the bank.
            size: Side of the anomaly maps in pixels.
        """
        memory = MemoryBank(bank, neighbors=head.neighbors)
        weight = DEFAULT_DEFECT_WEIGHT if head.defects is None else head.defects
        steps = [(STEPS[name], value) for name, value in head.active_steps()]
        scores = [step.scores(value, memory.bank.shape[1]) for step, value in steps]
        maps = [step.maps(value, size) for step, value in steps]
        return cls(
            aggregator=aggregator,
            memory=memory,
            defects=DefectBank(bank[:0], weight=weight),
            radius=radius,
            score_steps=nn.ModuleList(s for s in scores if s is not None).to(memory.bank.device),
            map_steps=nn.ModuleList(m for m in maps if m is not None).to(memory.bank.device),
            upsampling=Upsampling(size, head.smoothing),
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
        maps = []
        done = 0
        for batch in self.batches(feature_maps):
            patches: torch.Tensor = self.aggregator(batch)
            maps.append(self.score(patches.reshape(-1, height, width, patches.shape[1])))
            done += len(batch[0])
            if told is not None:
                told(done, len(feature_maps[0]))
        return torch.cat(maps)

    def batches(self, feature_maps: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        """Splits maps `[N, C_l, H_l, W_l]` into batches that are searched in about a second."""
        height, width = grid(feature_maps)
        images = images_at_a_time(self.memory.bank.device)
        if not self.memory.bank.is_cuda:
            of_one_image = height * width * len(self.memory)
            images = min(max(_DISTANCES_AT_A_TIME // of_one_image, 1), images)
        return batches_of(feature_maps, images)

    def score(self, patches: torch.Tensor) -> torch.Tensor:
        """Anomaly maps of patch features.

        The squared distances to the nearest neighbors in the bank, combined with those to known
        defects, become anomaly maps as in `maps_of`.

        Args:
            patches: `[N, H, W, D]`, float32.

        Returns:
            `[N, size, size]`, float32.
        """
        rows = patches.flatten(0, 2)
        if len(self.defects):
            scores: torch.Tensor = defect_scores(
                rows,
                self.memory.index,
                self.defects.index,
                weight=self.defects.weight,
                usual=self.defects.usual,
                neighbors=self.memory.neighbors,
            )[0]
        else:
            scores = self.memory(rows)
        return self.maps_of(patches, scores)

    def maps_of(self, patches: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Anomaly maps of scored patches.

        The scores go through the steps on distances, are resized bilinearly and smoothed, and go
        through the steps on anomaly maps.

        Args:
            patches: `[N, H, W, D]`, float32.
            scores: One score per patch, `[N * H * W]`.

        Returns:
            `[N, size, size]`, float32.
        """
        count, height, width, _ = patches.shape
        rows = patches.flatten(0, 2)
        for step in self.score_steps:
            scores = step(rows, scores)
        maps: torch.Tensor = self.upsampling(scores.reshape(count, height, width))
        for step in self.map_steps:
            maps = step(maps)
        return maps

    def knowing(
        self, good: torch.Tensor, defects: torch.Tensor, *, usual: float | None = None
    ) -> FittedHead:
        """The head with other rows; all else is shared.

        Args:
            good: Rows of the memory bank, `[N, D]`.
            defects: Rows of the defect bank, `[F, D]`.
            usual: Usual distance of good patches; unchanged if None.
        """
        usual = self.defects.usual if usual is None else usual
        return replace(
            self,
            memory=MemoryBank(good, neighbors=self.memory.neighbors),
            defects=DefectBank(defects, weight=self.defects.weight, usual=usual),
        )


def fit_head(
    good: GoodMaps,
    head: Head,
    *,
    size: int,
    memory_bytes: int = CORESET_BYTES,
    told: Callable[[int, int], None] | None = None,
) -> FittedHead:
    """Fits the steps and the memory bank of a head.

    Args:
        good: Maps of good images. They are iterated once, and once more for each step that is
            fitted. The result is on their device.
        head: The settings.
        size: Side of the anomaly maps in pixels.
        memory_bytes: Memory for choosing the bank, see `choose_coreset`.
        told: Called when the bank is chosen, see `choose_coreset`.

    Raises:
        ValueError: The memory is too small for the bank size.
    """
    aggregator, coreset = fit_patches(good, head, memory_bytes=memory_bytes, told=told)
    return head_of_coreset(good, head, aggregator, coreset, size=size)


def fit_patches(
    good: GoodMaps,
    head: Head,
    *,
    memory_bytes: int = CORESET_BYTES,
    told: Callable[[int, int], None] | None = None,
) -> tuple[PatchAggregator, Coreset]:
    """Fits the steps on features and chooses the coreset, see `fit_head`. Both depend only on patch
    sizes, bank size and steps of the head."""
    aggregator = PatchAggregator.of(head, good.channels).to(good.device)
    pool = PatchAggregator(head.patch_sizes)
    blocks = aggregator.fit(Repeatable(partial(map, pool, good.batches)))
    coreset = choose_coreset(
        blocks, head.bank_size, patches=good.patches, memory_bytes=memory_bytes, told=told
    )
    return aggregator, coreset


def head_of_coreset(
    good: GoodMaps, head: Head, aggregator: PatchAggregator, coreset: Coreset, *, size: int
) -> FittedHead:
    """The fitted head whose bank is the first rows of a coreset, see `fit_head`."""
    rows = coreset.rows[: head.bank_size]
    fitted = FittedHead.of(head, aggregator, rows, radius=coreset.radius(len(rows)), size=size)
    patches = Repeatable(partial(map, aggregator, good.batches))
    for step in fitted.score_steps:
        assert isinstance(step, ScoreTransform)
        step.fit(patches)
    return fitted
