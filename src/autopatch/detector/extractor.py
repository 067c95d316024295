"""Patch features: the features of a backbone at each position of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from autopatch.data import ImageInput, ImageReader, Preparation
from autopatch.detector.architecture import Architecture
from autopatch.detector.head import Head
from autopatch.detector.steps import STEPS, FeatureTransform
from autopatch.kernels import aggregate_patches
from autopatch.supernet import Subnet, Supernet

_RECALIBRATED_AT_A_TIME = 16  # images; the statistics depend on it


_Item = TypeVar("_Item", covariant=True)


class Repeatable(Iterable[_Item]):
    """An iterable that computes its items anew each time.

    Args:
        make: Returns a new iterator.
    """

    def __init__(self, make: Callable[[], Iterator[_Item]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[_Item]:
        return self._make()


@dataclass(frozen=True)
class GoodMaps:
    """Feature maps of the good images, batch by batch.

    Attributes:
        batches: Each has one tensor `[N, C_l, H_l, W_l]` per level, float32. Can be iterated
            several times.
        channels: Number of channels of each level.
        patches: Number of patches of all images.
        device: Device of the maps.
    """

    batches: Iterable[Sequence[torch.Tensor]]
    channels: tuple[int, ...]
    patches: int
    device: torch.device

    @classmethod
    def of(cls, maps: Sequence[torch.Tensor]) -> GoodMaps:
        """Maps of all images in memory, one tensor per level."""
        height, width = grid(maps)
        return cls(
            batches_of(maps),
            channels=tuple(m.shape[1] for m in maps),
            patches=len(maps[0]) * height * width,
            device=maps[0].device,
        )


class PatchAggregator(nn.Module):
    """Turns feature maps into patch features: pools, resizes and concatenates them, and applies the
    head's steps.

    Args:
        patch_sizes: Patch size of each level.
        transforms: Modules of the steps, in order.
    """

    def __init__(
        self, patch_sizes: Sequence[int], transforms: Sequence[FeatureTransform] = ()
    ) -> None:
        super().__init__()
        self.patch_sizes = tuple(patch_sizes)
        self.transforms = nn.ModuleList(transforms)

    @classmethod
    def of(cls, head: Head, channels: Sequence[int]) -> PatchAggregator:
        """The aggregator of a head. Its steps are not fitted yet.

        Args:
            head: Patch sizes and steps.
            channels: Channels of each level.
        """
        transforms: list[FeatureTransform] = []
        features = sum(channels)
        for name, value in head.active_steps():
            transform = STEPS[name].features(value, features, tuple(channels))
            if transform is not None:
                transforms.append(transform)
                features = transform.out_features
        return cls(head.patch_sizes, transforms)

    def out_features(self, channels: int) -> int:
        """Number of features of a patch whose levels have so many channels together."""
        for transform in self.transforms:
            assert isinstance(transform, FeatureTransform)
            channels = transform.out_features
        return channels

    def fit(self, patches: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
        """Fits the steps in order.

        Args:
            patches: Pooled features of all good patches, in blocks `[M_i, D]`; see
                `FeatureTransform.fit`.

        Returns:
            The transformed features, in blocks `[M_i, D']`.
        """
        for transform in self.transforms:
            assert isinstance(transform, FeatureTransform)
            transform.fit(patches)
            patches = Repeatable(partial(map, transform, patches))
        return patches

    def forward(self, feature_maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Patch features `[N * H * W, D]` of maps `[N, C_l, H_l, W_l]`; (H, W) is the `grid`."""
        patches: torch.Tensor = aggregate_patches(feature_maps, self.patch_sizes)
        for transform in self.transforms:
            patches = transform(patches)
        return patches


class PatchFeatureExtractor(nn.Module):
    """A backbone and the aggregator of its feature maps.

    Args:
        subnet: The backbone.
        aggregator: Turns its maps into patch features.
    """

    def __init__(self, subnet: Subnet, aggregator: PatchAggregator) -> None:
        super().__init__()
        self.subnet = subnet
        self.aggregator = aggregator

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Patch features `[N, H, W, D]` of pixels `[N, 3, S, S]`, uint8."""
        maps = self.subnet(self.subnet.normalize(images))
        height, width = grid(maps)
        patches: torch.Tensor = self.aggregator(maps)
        return patches.reshape(-1, height, width, patches.shape[1])


def images_at_a_time(device: torch.device) -> int:
    """Batch size on a device; a GPU needs larger batches. It affects memory, and results only by
    rounding."""
    return 64 if device.type == "cuda" else 16


def grid(feature_maps: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Number of patch positions (H, W) per image: the size of the largest feature map."""
    return max((int(m.shape[2]), int(m.shape[3])) for m in feature_maps)


def batches_of(
    feature_maps: Sequence[torch.Tensor], size: int | None = None
) -> list[tuple[torch.Tensor, ...]]:
    """Splits maps `[N, C_l, H_l, W_l]` into batches of `size` images; if None, of as many as the
    backbone processes at a time."""
    size = size or images_at_a_time(feature_maps[0].device)
    return list(zip(*(m.split(size) for m in feature_maps), strict=True))


def cut_subnet(
    supernet: Supernet,
    architecture: Architecture,
    good: Sequence[ImageInput],
    device: torch.device | str = "cpu",
    *,
    reader: ImageReader | None = None,
) -> Subnet:
    """Extracts the subnet of an architecture and folds its batch norm.

    If the supernet asks for it, batch norm is recalibrated first.

    Args:
        supernet: The supernet.
        architecture: One of its architectures.
        good: Images for recalibrating batch norm.
        device: Device of the subnet.
        reader: See `feature_maps`.
    """
    subnet = supernet.get_active_subnet(architecture.backbone).to(device)
    subnet.weights_sha256 = supernet.weights_sha256
    if supernet.recalibrate_batch_norm:
        # Batches have equal weight, so their sizes differ by at most one image.
        count = math.ceil(len(good) / _RECALIBRATED_AT_A_TIME)
        ends = [len(good) * i // count for i in range(count + 1)]
        reader = reader or ImageReader()
        subnet.recalibrate(
            subnet.normalize(pixels.to(device))
            for first, end in pairwise(ends)
            for pixels in reader.batches(good[first:end], architecture.input, end - first)
        )
    subnet.fold(architecture.input.size)
    return subnet


def feature_maps(
    subnet: Subnet,
    preparation: Preparation,
    images: Sequence[ImageInput],
    told: Callable[[int, int], None] | None = None,
    *,
    reader: ImageReader | None = None,
) -> Iterator[list[torch.Tensor]]:
    """Feature maps of images, batch by batch, on the subnet's device.

    Args:
        subnet: The backbone.
        preparation: Brings the images to one size, such as the `Input` of an architecture.
        images: Files, or images in memory.
        told: Called after every batch with the number of images done, and their total.
        reader: Reads the images and may cache them; if None, a reader without a cache.
    """
    at_a_time = images_at_a_time(subnet.device)
    reader = reader or ImageReader()
    done = 0
    for pixels in reader.batches(images, preparation, at_a_time):
        with torch.inference_mode():
            maps = subnet(subnet.normalize(pixels.to(subnet.device)))
        yield maps
        done += len(pixels)
        if told is not None:
            told(done, len(images))


def stack_maps(batches: Iterable[Sequence[torch.Tensor]], count: int) -> list[torch.Tensor]:
    """Joins batches of feature maps of `count` images in all, channels-last.

    Each batch is copied in place as it arrives, so memory holds the maps only once.
    """
    stacked: list[torch.Tensor] = []
    first = 0
    for batch in batches:
        if not stacked:
            stacked = [
                torch.empty(
                    (count, *m.shape[1:]),
                    dtype=m.dtype,
                    device=m.device,
                    memory_format=torch.channels_last,
                )
                for m in batch
            ]
        for whole, part in zip(stacked, batch, strict=True):
            whole[first : first + len(part)] = part
        first += len(batch[0])
    return stacked
