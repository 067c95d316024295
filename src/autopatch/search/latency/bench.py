"""The images, feature maps and networks that a latency table is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    Cache,
    ImageInput,
    ImageReader,
    Reading,
)
from autopatch.detector import (
    Architecture,
    Input,
    feature_maps,
    patchcore_architecture,
    stack_maps,
)
from autopatch.errors import InputError
from autopatch.genes import Choice
from autopatch.kernels import aggregate_patches
from autopatch.progress import Progress
from autopatch.search.latency.levels import (
    all_level_sets,
    covering_backbones,
    measured_sets,
)
from autopatch.search.latency.timing import Clock
from autopatch.search.space import SearchSpace
from autopatch.supernet import Backbone, Subnet, Supernet

_GOOD_IMAGES, _QUERY_IMAGES = 32, 8
_PIXEL_BYTES = 256 << 20  # decoded images that are kept
_MOST_SIZES = 4  # image sizes that are measured; others are interpolated
_SEED = 0

USUAL_PATCHES = 10_000
"""Usual number of patches of good images, from which banks are chosen."""


class Bench:
    """What the components of the latency are measured with.

    Args:
        supernet: The supernet.
        space: The search space.
        good: Good images, for banks.
        queries: Other images, for queries.
        clock: The clock.
        device: Device of everything but the reading of images.
        batch: Images per batch.
        reading: How images become pixels.
        told: Called during long steps.

    Attributes:
        supernet, space, clock, device, batch, told: See above.
        side: Side of the anomaly maps in pixels.

    Raises:
        InputError: There are no good images or no queries.
    """

    side = EVALUATION_SIZE

    def __init__(
        self,
        supernet: Supernet,
        space: SearchSpace,
        good: Sequence[ImageInput],
        queries: Sequence[ImageInput],
        *,
        clock: Clock,
        device: torch.device,
        batch: int = 1,
        reading: Reading = DEFAULT_READING,
        told: Progress,
    ) -> None:
        if not good or not queries:
            raise InputError("the latency is measured on images, expected at least two good ones")
        self.supernet = supernet
        self.space = space
        self.clock = clock
        self.device = device
        self.batch = batch
        self.told = told
        self.images = _some(good, _GOOD_IMAGES)
        self.others = _some(queries, _QUERY_IMAGES)
        self.reader = ImageReader(Cache(_PIXEL_BYTES), reading)
        self._maps: dict[tuple[str, int, bool], dict[int, torch.Tensor]] = {}
        self._shared: dict[tuple[str, int], dict[int, torch.Tensor]] = {}

    @cached_property
    def sizes(self) -> list[int]:
        """Image sizes to measure, ascending: those of the space and of the PatchCore baseline, at
        most four."""
        sizes = {int(str(size)) for size in self.space.choices("input", "image_size")}
        baseline = patchcore_architecture(self.supernet, images=1)
        if baseline is not None:
            sizes.add(baseline.input.size)
        return _ends_and_between(sorted(sizes), _MOST_SIZES)

    @cached_property
    def patch_sizes(self) -> list[int]:
        """Patch sizes to measure, ascending: the smallest and the largest of the space."""
        sizes = sorted({int(str(size)) for size in self.space.choices("head", "patch_size")})
        return sorted({sizes[0], sizes[-1]})

    @cached_property
    def usual_patch_size(self) -> int:
        """The patch size in the middle of those of the space."""
        sizes = sorted({int(str(size)) for size in self.space.choices("head", "patch_size")})
        return sizes[(len(sizes) - 1) // 2]

    @cached_property
    def level_sets(self) -> dict[str, Backbone]:
        """Sets of levels to measure, by name, as backbones."""
        return measured_sets(self.supernet, all_level_sets(self.supernet, self.space))

    @cached_property
    def extreme_sets(self) -> list[str]:
        """Names of the sets of levels with the fewest and the most channels."""
        channels = {
            name: sum(level.channels for level in self.supernet.levels(backbone))
            for name, backbone in self.level_sets.items()
        }
        names = sorted(channels, key=lambda name: (channels[name], name))
        return list(dict.fromkeys((names[0], names[-1])))

    @property
    def needs_counts(self) -> bool:
        """Whether the time of searches is read from counts; see `LatencyTable.needs_counts`."""
        return self.device.type == "cpu"

    def choices(self, field: str) -> list[Choice]:
        """The choices of a field of the head; none if the space does not have it."""
        return list(dict.fromkeys(self.space.choices("head", field)))

    @cached_property
    def covering(self) -> list[Backbone]:
        """Backbones with every setting of every stage of the space, and the largest."""
        found = covering_backbones(self.supernet, self.space)
        largest = self.supernet.largest()
        return found if largest in found else [*found, largest]

    def subnet(self, backbone: Backbone, size: int) -> Subnet:
        """The subnet of a backbone, with its batch norm folded."""
        subnet = self.supernet.get_active_subnet(backbone).to(self.device)
        subnet.fold(size)
        return subnet

    def pixels(self, size: int) -> torch.Tensor:
        """A batch of images, uint8 `[batch, 3, size, size]`, on the device."""
        generator = torch.Generator("cpu").manual_seed(_SEED)
        shape = (self.batch, 3, size, size)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8, device="cpu")
        return pixels.to(self.device)

    def good_maps(self, backbone: Backbone, size: int) -> list[torch.Tensor]:
        """Feature maps of the good images at the levels of a backbone of `level_sets`."""
        return self._maps_of(backbone, size, good=True)

    def query_maps(self, backbone: Backbone, size: int) -> list[torch.Tensor]:
        """Feature maps of the other images; at least `batch` of them."""
        return self._maps_of(backbone, size, good=False)

    def _maps_of(self, backbone: Backbone, size: int, *, good: bool) -> list[torch.Tensor]:
        key = (backbone.network, size, good)
        if key not in self._maps:
            indices = sorted(
                {
                    index
                    for other in self.level_sets.values()
                    if other.network == backbone.network
                    for index in other.levels
                }
            )
            whole = replace(self.supernet.largest(indices), network=backbone.network)
            images = self.images if good else self.others
            batches = feature_maps(
                self.subnet(whole, size), Input(size), images, reader=self.reader
            )
            maps = stack_maps(batches, len(images))
            if not good and len(images) < self.batch:
                maps = [m.repeat(-(-self.batch // len(m)), 1, 1, 1) for m in maps]
            self._maps[key] = dict(zip(indices, maps, strict=True))
        return [self._maps[key][index] for index in backbone.levels]

    def query_pixels(self, size: int) -> list[torch.Tensor]:
        """Batches of the other images, uint8 `[batch, 3, size, size]`, on the device."""
        count = max(len(self.others), self.batch)
        images = [self.others[i % len(self.others)] for i in range(count)]
        (pixels,) = self.reader.batches(images, Input(size), count)
        return list(pixels.to(self.device)[: count - count % self.batch].split(self.batch))

    def shared_key(self, architecture: Architecture) -> tuple[str, int]:
        """A key that architectures with the same feature maps have in common."""
        return repr(self.supernet.shared(architecture.backbone)), architecture.input.size

    def fitted_maps(
        self, architecture: Architecture
    ) -> tuple[Subnet, list[torch.Tensor], list[torch.Tensor]]:
        """The subnet of an architecture, and the feature maps of the good and the other images."""
        subnet = self.subnet(architecture.backbone, architecture.input.size)
        shared = self.supernet.shared(architecture.backbone)
        key = self.shared_key(architecture)
        if key not in self._shared:
            self._shared.clear()  # one at a time
            alone = shared == architecture.backbone
            whole = subnet if alone else self.subnet(shared, architecture.input.size)
            images = [*self.images, *self.others]
            batches = feature_maps(whole, architecture.input, images, reader=self.reader)
            maps = stack_maps(batches, len(images))
            self._shared[key] = dict(zip(shared.levels, maps, strict=True))
        kept = [self._shared[key][level] for level in architecture.backbone.levels]
        good = len(self.images)
        return subnet, [m[:good] for m in kept], [m[good:] for m in kept]

    def sampled(
        self,
        maps: Sequence[torch.Tensor],
        patch_sizes: Sequence[int],
        *,
        most: int = USUAL_PATCHES,
    ) -> torch.Tensor:
        """Patch features `[M, D]` of random patches of all images, as many of each.

        Args:
            maps: Feature maps of images.
            patch_sizes: Patch size of each level.
            most: Number of patches, about; all if there are fewer.
        """
        generator = torch.Generator("cpu").manual_seed(_SEED)
        share = -(-most // len(maps[0]))
        patches = []
        for one in zip(*(m.split(1) for m in maps), strict=True):
            of_image = aggregate_patches(one, patch_sizes)
            order = torch.randperm(len(of_image), generator=generator, device="cpu")[:share]
            patches.append(of_image[order.to(self.device)])
        return torch.cat(patches)


def _some(images: Sequence[ImageInput], count: int) -> list[ImageInput]:
    """At most `count` images, drawn at random but always alike, in their order."""
    chosen = np.random.default_rng(_SEED).permutation(len(images))[:count]
    return [images[index] for index in sorted(chosen)]


def _ends_and_between(values: Sequence[int], most: int) -> list[int]:
    if len(values) <= most:
        return list(values)
    places = np.linspace(0, len(values) - 1, most).round().astype(int)
    return [values[place] for place in dict.fromkeys(places.tolist())]
