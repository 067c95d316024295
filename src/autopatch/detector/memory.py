"""The memory bank: patch features of good images, and how far new ones are from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from autopatch.kernels import (
    NearestNeighborIndex,
    aggregate_patches,
    greedy_coreset,
    nearest_neighbors,
)

MAX_CORESET_SAMPLE = 50_000
"""Patches the greedy coreset chooses from, at most: a random sample of all of them."""

_DISTANCES_AT_A_TIME = 2**31  # about a second of a CPU, after which one may be told how far it is


class MemoryBank:
    """Patch features of good images.

    Args:
        bank: Patch features, `[N, D]`, float32.
        patch_sizes: Patch size of each level.
    """

    def __init__(self, bank: torch.Tensor, patch_sizes: Sequence[int]) -> None:
        self.patch_sizes = tuple(patch_sizes)
        self._index = NearestNeighborIndex(bank)

    @property
    def bank(self) -> torch.Tensor:
        return self._index.bank

    @classmethod
    def fit(
        cls,
        feature_maps: Sequence[torch.Tensor],
        patch_sizes: Sequence[int],
        *,
        bank_size: int | None,
        seed: int = 0,
    ) -> MemoryBank:
        """Keeps `bank_size` of the images' patches, chosen by greedy coreset.

        The coreset is taken of a random sample of at most `MAX_CORESET_SAMPLE` patches. All patches
        are kept where `bank_size` is None or there are no more than that.

        Args:
            feature_maps: Of good images, one `[N, C_l, H_l, W_l]` a level; the bank stays on their
                device.
            patch_sizes: Patch size of each level.
            bank_size: Patches to keep; at most `MAX_CORESET_SAMPLE`, or None.
            seed: Of the sample and of the first patch of the coreset.
        """
        height, width = grid(feature_maps)
        count = len(feature_maps[0]) * height * width
        if bank_size is None or bank_size >= count:
            rows = torch.cat(
                [aggregate_patches(batch, patch_sizes) for batch in _batches(feature_maps)]
            )
            return cls(rows, patch_sizes)
        if bank_size > MAX_CORESET_SAMPLE:
            raise ValueError(
                f"`bank_size` is {bank_size}, expected at most {MAX_CORESET_SAMPLE} or None for all"
            )
        sample = torch.arange(count)
        if count > MAX_CORESET_SAMPLE:
            generator = torch.Generator().manual_seed(seed)
            sample = torch.randperm(count, generator=generator)[:MAX_CORESET_SAMPLE].sort().values
        rows = _sampled_rows(feature_maps, patch_sizes, sample)
        indices, _ = greedy_coreset(rows, bank_size, seed=seed)
        return cls(rows[indices], patch_sizes)

    def anomaly_maps(
        self,
        feature_maps: Sequence[torch.Tensor],
        size: int,
        told: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Squared distance of each patch to its nearest neighbor, resized bilinearly.

        Args:
            feature_maps: One `[N, C_l, H_l, W_l]` a level.
            size: Side of the maps.
            told: Called after some images with how many are done, and how many there are.

        Returns:
            `[N, size, size]`, float32.
        """
        height, width = grid(feature_maps)
        images = images_at_a_time(self.bank.device)
        if not self.bank.is_cuda:
            of_one_image = height * width * len(self.bank)
            images = min(max(_DISTANCES_AT_A_TIME // of_one_image, 1), images)
        maps = []
        done = 0
        for batch in _batches(feature_maps, images):
            patches = aggregate_patches(batch, self.patch_sizes)
            distances, _ = nearest_neighbors(patches, self._index)
            maps.append(
                F.interpolate(
                    distances.reshape(-1, 1, height, width),
                    size=(size, size),
                    mode="bilinear",
                    align_corners=False,
                )
            )
            done += len(batch[0])
            if told is not None:
                told(done, len(feature_maps[0]))
        return torch.cat(maps).squeeze(1)


def images_at_a_time(device: torch.device) -> int:
    """Images of a batch: it bounds the memory taken and moves results by no more than rounding. A
    GPU needs more to be busy."""
    return 64 if device.type == "cuda" else 16


def grid(feature_maps: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Patch positions of an image, (H, W): those of the largest feature map."""
    return max((int(m.shape[2]), int(m.shape[3])) for m in feature_maps)


def total_flops(backbone_flops: int, queries: int, bank_rows: int, channels: int) -> int:
    """FLOPs of one image: the backbone's, and two for each feature of each patch and bank row.

    That is the cost of a search which computes every distance, a measure that does not depend on
    the data; `nearest_neighbors` gets by with less.
    """
    return backbone_flops + 2 * queries * bank_rows * channels


def _batches(
    feature_maps: Sequence[torch.Tensor], size: int | None = None
) -> list[tuple[torch.Tensor, ...]]:
    size = size or images_at_a_time(feature_maps[0].device)
    return list(zip(*(m.split(size) for m in feature_maps), strict=True))


def _sampled_rows(
    feature_maps: Sequence[torch.Tensor], patch_sizes: Sequence[int], sample: torch.Tensor
) -> torch.Tensor:
    """Patch features of the sorted row numbers `sample`, without holding those of all rows."""
    rows = []
    first = 0
    for batch in _batches(feature_maps):
        patches = aggregate_patches(batch, patch_sizes)
        bounds = torch.searchsorted(sample, torch.tensor([first, first + len(patches)]))
        rows.append(patches[(sample[bounds[0] : bounds[1]] - first).to(patches.device)])
        first += len(patches)
    return torch.cat(rows)
