"""The published Once-for-All networks as supernets: a kernel size and an expand ratio a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.supernet.architecture import (
    EXPAND_RATIOS,
    KERNEL_SIZES,
    PATCH_SIZES,
    Architecture,
    Level,
    describe_bank,
)
from autopatch.supernet.backbone import ONCE_FOR_ALL
from autopatch.supernet.elastic import (
    BLOCKS_PER_STAGE,
    DEPTHS,
    STAGES,
    OnceForAllMobileNetV3,
    SubnetSetting,
    block_level,
)
from autopatch.supernet.published_flops import PublishedCost, published_cost
from autopatch.supernet.space import Choice, Gene, SearchSpace
from autopatch.supernet.subnet import Subnet

OFA_MBV3 = "ofa_mbv3"
"""Name of the space of both published networks."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PUBLISHED_IMAGE_SIZE = 224

_NAMES = tuple(ONCE_FOR_ALL.values())
_WIDTHS = {name: width for width, name in ONCE_FOR_ALL.items()}


class OnceForAllSupernet:
    """One or both published networks; every choice of stages is a subnet. Made by `load_supernet`.

    An architecture's levels are block numbers, 1 to 20, four a stage. A stage runs its blocks up to
    the one that is a level, but at least two (AutoPatch, Kerssies & Vanschoren, AutoML 2023).

    Args:
        name: "ofa_mbv3", or the name of the one network.
        networks: By name.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.
        random_features: Whether the weights are random.
        recalibrate_batch_norm: Whether subnets get the good images' statistics.

    Attributes:
        shared_levels: Empty: two architectures hardly ever run the same blocks.
    """

    shared_levels: tuple[int, ...] = ()

    def __init__(
        self,
        name: str,
        networks: Mapping[str, OnceForAllMobileNetV3],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        provenance: str,
        random_features: bool = False,
        recalibrate_batch_norm: bool = False,
    ) -> None:
        self.name = name
        self.networks = dict(networks)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.random_features = random_features
        self.recalibrate_batch_norm = recalibrate_batch_norm

    def get_active_subnet(self, architecture: Architecture) -> Subnet:
        """The static module of an architecture, with weights of its own.

        Raises:
            InputError: The architecture is of another supernet, or of no valid setting.
        """
        width, setting = self._width(architecture), subnet_setting(architecture)
        backbone = self.networks[architecture.supernet].get_active_subnet(setting)
        recipe = {"supernet": architecture.supernet, **asdict(setting)}
        return Subnet(
            backbone,
            {key: list(v) if isinstance(v, tuple) else v for key, v in recipe.items()},
            [block_level(block, width) for block in setting.levels],
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )

    def chosen_levels(self, architecture: Architecture) -> tuple[Level, ...]:
        """The levels of an architecture."""
        width = self._width(architecture)
        return tuple(block_level(block, width) for block in architecture.levels)

    def grid(self, architecture: Architecture) -> tuple[int, int]:
        """Patch positions (H, W) of an image: those of the largest chosen feature map."""
        return (_side(architecture.image_size, self.chosen_levels(architecture)[0].stride),) * 2

    def flops(self, architecture: Architecture) -> int:
        """FLOPs of a subnet for one image, two a multiply-add of convolutions."""
        return 2 * self.published_cost(architecture).conv_macs

    def published_cost(self, architecture: Architecture) -> PublishedCost:
        """Cost of a subnet for one image by the published rule."""
        self._width(architecture)  # refuses those of other supernets
        return stages_cost(architecture)

    def patchcore(self, *, bank_size: int | None) -> Architecture:
        """PatchCore's usual choice: levels of stride 8 and 16, patch size 3, images of 224 px; of
        the widest network, nothing left out.

        Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
        """
        name = max(self.networks, key=lambda each: _WIDTHS[each])
        stages = 4  # the fourth is the last of stride 16
        return Architecture(
            name,
            224,
            (2 * BLOCKS_PER_STAGE, stages * BLOCKS_PER_STAGE),
            (3, 3),
            bank_size,
            (max(KERNEL_SIZES),) * stages,
            (max(EXPAND_RATIOS),) * stages,
        )

    def describe(self, architecture: Architecture) -> str:
        """See `describe_stages`."""
        return describe_stages(architecture)

    def search_space(
        self,
        *,
        image_sizes: Sequence[int] = (160, 224, 288),
        patch_sizes: Sequence[int] = (1, 3, 5, 7),
        bank_sizes: Sequence[int | None] = (500, 1000, 2000, 5000, 10000),
    ) -> SearchSpace:
        """Kernel size, expand ratio, block and patch size of each stage, the image size, the size
        of the bank, and the network where there are several.

        Raises:
            InputError: A choice is out of range, or an image size too small.
        """
        deepest = block_level(len(STAGES) * BLOCKS_PER_STAGE, 1.0)
        for image_size in image_sizes:
            if _side(image_size, deepest.stride) < 2:
                raise InputError(
                    f"image size {image_size}: the map of stride {deepest.stride} is "
                    f"{_side(image_size, deepest.stride)} wide, expected at least 2; choose larger "
                    "images"
                )
        scalars: dict[str, tuple[Choice, ...]] = {
            "image_size": tuple(image_sizes),
            "bank_size": tuple(bank_sizes),
        }
        return _space(tuple(self.networks), scalars, patch_sizes)

    def published_space(self, *, bank_sizes: Sequence[int | None] = (None,)) -> SearchSpace:
        """The published space, of the networks at hand; see `published_space`."""
        return published_space(tuple(self.networks), bank_sizes=bank_sizes)

    def _width(self, architecture: Architecture) -> float:
        if architecture.supernet not in self.networks:
            raise InputError(
                f"the architecture is of {architecture.supernet}, expected "
                f"{' or '.join(self.networks)}"
            )
        return _WIDTHS[architecture.supernet]


def published_space(
    networks: Sequence[str] = _NAMES,
    *,
    bank_sizes: Sequence[int | None] = (None,),
) -> SearchSpace:
    """The published search space: 21 genes, 2 * 720**5 genomes, images of 224 px, the full bank.

    Kerssies & Vanschoren, Neural Architecture Search for Visual Anomaly Segmentation, AutoML 2023.

    Args:
        networks: Names of the supernets to choose from; published are both.
        bank_sizes: Patches in the bank; published are all, None.
    """
    scalars: dict[str, tuple[Choice, ...]] = {
        "image_size": (PUBLISHED_IMAGE_SIZE,),
        "bank_size": tuple(bank_sizes),
    }
    return _space(tuple(networks), scalars, PATCH_SIZES)


def subnet_setting(architecture: Architecture) -> SubnetSetting:
    """What the elastic network is set to for an architecture.

    Raises:
        InputError: It has no such block, or not a kernel size and an expand ratio for each stage
            up to that of its deepest level.
    """
    stages = [(block - 1) // BLOCKS_PER_STAGE for block in architecture.levels]
    if min(architecture.levels) < 1 or max(stages) >= len(STAGES):
        last = len(STAGES) * BLOCKS_PER_STAGE
        raise InputError(f"blocks are {list(architecture.levels)}, expected 1 to {last}")
    run = max(stages) + 1
    if len(architecture.kernel_sizes) != run:
        raise InputError(
            f"architecture: {len(architecture.kernel_sizes)} kernel sizes and expand ratios, "
            f"expected {run}: one of each for every stage up to that of block "
            f"{architecture.levels[-1]}"
        )
    if architecture.depths:
        raise InputError("architecture: depths are given, but here the levels set them")
    depths = [min(DEPTHS)] * len(STAGES)
    for stage, block in zip(stages, architecture.levels, strict=True):
        depths[stage] = max(depths[stage], (block - 1) % BLOCKS_PER_STAGE + 1)
    behind = len(STAGES) - run
    kernel_sizes = (*architecture.kernel_sizes, *(min(KERNEL_SIZES),) * behind)
    expand_ratios = (*architecture.expand_ratios, *(min(EXPAND_RATIOS),) * behind)
    return SubnetSetting(
        kernel_sizes=tuple(size for size in kernel_sizes for _ in range(BLOCKS_PER_STAGE)),
        expand_ratios=tuple(ratio for ratio in expand_ratios for _ in range(BLOCKS_PER_STAGE)),
        depths=tuple(depths),
        levels=architecture.levels,
    )


def stages_cost(architecture: Architecture) -> PublishedCost:
    """Cost of an architecture of the published networks by the published rule.

    Raises:
        InputError: It is of no valid setting.
    """
    width, setting = _WIDTHS[architecture.supernet], subnet_setting(architecture)
    return published_cost(width, setting, architecture.image_size)


def describe_stages(architecture: Architecture) -> str:
    """Short text such as "w1.2, 224 px, kernels 7 3, ratios 6 4, block 2 p3 + block 7 p5, all
    patches"."""
    blocks = [
        f"block {block} p{patch_size}"
        for block, patch_size in zip(architecture.levels, architecture.patch_sizes, strict=True)
    ]
    parts = [
        f"w{_WIDTHS[architecture.supernet]}",
        f"{architecture.image_size} px",
        f"kernels {' '.join(map(str, architecture.kernel_sizes))}",
        f"ratios {' '.join(map(str, architecture.expand_ratios))}",
        " + ".join(blocks),
        describe_bank(architecture),
    ]
    return ", ".join(parts)


def random_network(width: float, *, seed: int) -> OnceForAllMobileNetV3:
    """An elastic network of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OnceForAllMobileNetV3(width)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return network.eval().requires_grad_(False)


def _space(
    networks: tuple[str, ...],
    scalars: Mapping[str, tuple[Choice, ...]],
    patch_sizes: Sequence[int],
) -> SearchSpace:
    # Names and order of the genes of stages are those of the published studies.
    genes = [Gene("supernet_name", networks, "supernet")] if len(networks) > 1 else []
    genes += [Gene(key, values, key) for key, values in scalars.items() if len(values) != 1]
    blocks = [f"stage_{stage}_block" for stage in range(len(STAGES))]
    for stage in range(len(STAGES)):
        first = BLOCKS_PER_STAGE * stage + 1
        later = tuple(blocks[stage:])
        own: list[tuple[str, tuple[Choice, ...], tuple[str, ...]]] = [
            ("kernel_size", KERNEL_SIZES, later),
            ("expand_ratio", EXPAND_RATIOS, later),
            ("block", (None, *range(first, first + BLOCKS_PER_STAGE)), ()),
            ("patch_size", tuple(patch_sizes), (blocks[stage],)),
        ]
        for key, values, active_if in own:
            field = "level" if key == "block" else key
            genes.append(Gene(f"stage_{stage}_{key}", values, field, stage, active_if))
    fixed: dict[str, Any] = {key: values[0] for key, values in scalars.items() if len(values) == 1}
    name = networks[0] if len(networks) == 1 else OFA_MBV3
    return SearchSpace(name, tuple(genes), fixed)


def _side(image_size: int, stride: int) -> int:
    # Every halving rounds up.
    return -(-image_size // stride)
