"""The published Once-for-All networks as supernets: a kernel size and an expand ratio per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.genes import Choice, Gene, Settings, is_integer
from autopatch.progress import Progress
from autopatch.published.flops import PublishedCost, published_cost
from autopatch.published.network import (
    BLOCKS_PER_STAGE,
    DEPTHS,
    EXPAND_RATIOS,
    KERNEL_SIZES,
    STAGES,
    OnceForAllMobileNetV3,
    OnceForAllSetting,
    StaticNetwork,
    block_level,
)
from autopatch.published.weights import file_in_folder, official_weights, weights_in_file
from autopatch.supernet import (
    Backbone,
    Family,
    Layers,
    Level,
    LoadOptions,
    Preset,
    SeededWeights,
    Segment,
    Subnet,
    Supernet,
    check_channels,
    random_provenance,
    single_map,
    unknown_space,
    weights_paths,
)

OFA_MBV3 = "ofa_mbv3"
"""Name of the space that holds both published networks."""

NETWORKS = {1.0: "ofa_mbv3_d234_e346_k357_w1.0", 1.2: "ofa_mbv3_d234_e346_k357_w1.2"}
"""Names of the published networks, by width."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _differences(fixed: Mapping[str, Choice], sampler: str) -> list[str]:
    """Differences of a search from the published one, one line each."""
    lines = []
    if fixed.get("head.bank_size", 0) is not None:
        lines.append("the published search has another bank size: its banks hold all patches")
    installed = version("optuna")
    if sampler == "tpe" and int(installed.split(".")[0]) >= 5:
        lines.append(
            f"TPE of Optuna {installed} weights trials differently from the published search; "
            "Optuna below 5 is closer to it"
        )
    return lines


PUBLISHED = Preset(
    mask_resize="any",
    cost="published_flops",
    rule="best",
    choices={"image_size": (224,), "patch_size": tuple(range(1, 17)), "bank_size": (None,)},
    own=("image_size", "patch_size"),
    fix_single_choices=True,
    optional_genes=False,
    from_baseline=False,
    remarks=_differences,
)
"""The published search: 2 * 720**5 genomes, images of 224 px, all patches in the bank, and the
published count of the backbone's FLOPs.

Kerssies & Vanschoren, Neural Architecture Search for Visual Anomaly Segmentation, AutoML 2023.
"""

_WIDTHS = {name: width for width, name in NETWORKS.items()}


class OnceForAllSupernet(Supernet):
    """One or both published networks. Made by `load_supernet`.

    The levels of a backbone are block numbers, 1 to 20, four per stage. A stage runs its blocks up
    to the level, but at least two (AutoPatch, Kerssies & Vanschoren, AutoML 2023). The setting has
    a "kernel_size" and an "expand_ratio" for each stage up to the stage of the deepest level.

    Args:
        name: "ofa_mbv3", or the name of the only network.
        networks: The elastic networks by name.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
        provenance: Origin of the weights, on one line.
        random_features: Whether the weights are random.
        recalibrate_batch_norm: Whether the batch norm statistics of each subnet are recomputed from
            the good images.
    """

    presets: ClassVar = {"default": Preset(fix_single_choices=True), "published": PUBLISHED}

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
        super().__init__(
            name,
            mean=mean,
            std=std,
            provenance=provenance,
            random_features=random_features,
            recalibrate_batch_norm=recalibrate_batch_norm,
        )
        self.networks = tuple(networks)
        self._networks = dict(networks)

    def genes(self) -> list[Gene]:
        """The network, if there are several; then kernel size, expand ratio and block of each
        stage."""
        return stage_genes(self.networks)

    def all_levels(self, network: str) -> tuple[Level, ...]:
        """The levels at the outputs of all blocks."""
        blocks = range(1, len(STAGES) * BLOCKS_PER_STAGE + 1)
        return tuple(block_level(block, _WIDTHS[network]) for block in blocks)

    def largest(self, levels: Sequence[int] | None = None) -> Backbone:
        """The largest subnet of the widest network. By default its levels are the last blocks of
        the stages."""

        name = max(self.networks, key=lambda each: _WIDTHS[each])
        ends = range(BLOCKS_PER_STAGE, len(STAGES) * BLOCKS_PER_STAGE + 1, BLOCKS_PER_STAGE)
        chosen = tuple(ends if levels is None else levels)
        run = _stage(chosen[-1]) + 1
        return Backbone(
            name,
            chosen,
            Settings(
                {
                    "kernel_size": (max(KERNEL_SIZES),) * run,
                    "expand_ratio": (max(EXPAND_RATIOS),) * run,
                }
            ),
        )

    def check(self, backbone: Backbone) -> None:
        """Raises InputError unless the backbone is a subnet of these networks."""
        self.check_network(backbone)
        once_for_all_setting(backbone)

    def get_active_subnet(self, backbone: Backbone) -> Subnet:
        """Extracts the static module of a backbone, with its own copy of the weights.

        Raises:
            InputError: The backbone belongs to another supernet, or its setting is invalid.
        """
        self.check_network(backbone)
        setting = once_for_all_setting(backbone)
        recipe = {"network": backbone.network, **asdict(setting)}
        return Subnet(
            self._networks[backbone.network].get_active_subnet(setting),
            {key: list(v) if isinstance(v, tuple) else v for key, v in recipe.items()},
            self.levels(backbone),
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )

    def segments(self, backbone: Backbone) -> tuple[Segment, ...]:
        """One segment for each block that runs, the first with the stem: a block depends on its own
        kernel size and expand ratio alone."""
        self.check_network(backbone)
        setting = once_for_all_setting(backbone)
        blocks = setting.blocks()
        return tuple(
            Segment(
                (block,),
                (block, setting.kernel_sizes[block - 1], setting.expand_ratios[block - 1]),
                reusable=following is None or _stage(following) != _stage(block),
            )
            for block, following in zip_longest(blocks, blocks[1:])
        )

    def split(self, backbone: Backbone, subnet: Subnet) -> Sequence[Layers]:
        """The blocks that run, the first with the stem."""
        network = subnet.network
        assert isinstance(network, StaticNetwork)
        return list(map(single_map, network.layers()))

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The tensors of the elastic networks."""
        return {
            f"{name}.{key}": value
            for name, network in self._networks.items()
            for key, value in network.state_dict().items()
        }

    def grids(self, network: str, image_size: int) -> dict[int, tuple[int, int]]:
        """Height and width of the feature map of every block, by block. Each halving rounds up."""
        return {
            level.index: (-(-image_size // level.stride),) * 2 for level in self.all_levels(network)
        }

    def flops(self, backbone: Backbone, image_size: int) -> int:
        """FLOPs of a subnet per image: two for each multiply-add of a convolution."""
        self.check_network(backbone)
        return 2 * backbone_cost(backbone, image_size).conv_macs

    def stages(self, backbone: Backbone) -> tuple[str, ...]:
        """The stages up to the deepest block, with kernel size, expand ratio and depth."""
        self.check_network(backbone)
        setting = once_for_all_setting(backbone)
        return tuple(
            f"{backbone.network} stage {stage}, "
            f"kernel_size {setting.kernel_sizes[BLOCKS_PER_STAGE * stage]}, "
            f"expand_ratio {setting.expand_ratios[BLOCKS_PER_STAGE * stage]}, "
            f"depth {setting.depths[stage]}"
            for stage in range(_stage(backbone.levels[-1]) + 1)
        )

    def describe(self, backbone: Backbone) -> str:
        """A short description such as "w1.2, kernels 7 3, ratios 6 4"."""
        return describe_setting(backbone)

    def level_names(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the selected blocks, such as "block 7"."""
        return block_names(backbone)


class OnceForAllFamily(Family):
    """The published networks: both, or one of them."""

    usage = f"{OFA_MBV3}, {', '.join(NETWORKS.values())}"

    def load(
        self, space: str, weights: str, options: LoadOptions, progress: Progress | None
    ) -> OnceForAllSupernet:
        """Loads the networks of a space and their weights, see `load_supernet`."""
        names = _networks(space)
        options.require(space, "recalibrate_batch_norm")
        recalibrate = bool(options.own.get("recalibrate_batch_norm"))
        networks = {}
        for name, width in names.items():
            if weights == "random":
                networks[name] = random_network(width, seed=options.seed)
            else:
                networks[name] = _trained(name, width, weights, len(names) == 1, progress)
        if weights == "random":
            provenance = random_provenance(options.seed)
        elif weights == "auto":
            provenance = "weights of the published Once-for-All networks"
        else:
            provenance = f"weights of {Path(weights).name}"
        if recalibrate:
            provenance += ", batch norm recalibrated on the good images"
        return OnceForAllSupernet(
            space,
            networks,
            mean=check_channels("mean", options.mean or IMAGENET_MEAN),
            std=check_channels("std", options.std or IMAGENET_STD),
            provenance=provenance,
            random_features=weights == "random",
            recalibrate_batch_norm=recalibrate,
        )

    def weights_files(self, space: str, weights: str) -> list[Path]:
        """The weights file, or the files of all networks of the space in a folder."""
        paths = weights_paths(weights)
        if paths and paths[0].is_dir():
            return [file_in_folder(paths[0], name) for name in _networks(space)]
        return paths

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """The static network of a setting, with random weights."""
        name = recipe["network"]
        if name not in _WIDTHS:
            raise InputError(f"network is {name}, expected one of {', '.join(_WIDTHS)}")
        values = {key: tuple(recipe[key]) for key in OnceForAllSetting.__dataclass_fields__}
        return StaticNetwork(_WIDTHS[name], OnceForAllSetting(**values))


FAMILY = OnceForAllFamily()


def stage_genes(networks: Sequence[str] = tuple(_WIDTHS)) -> list[Gene]:
    """The backbone's genes, with the names and in the order of the published studies.

    Args:
        networks: Names of the networks to choose from.
    """
    genes = []
    if len(networks) > 1:
        genes.append(Gene("supernet_name", tuple(networks), "backbone", "network"))
    blocks = [f"stage_{stage}_block" for stage in range(len(STAGES))]
    for stage in range(len(STAGES)):
        first = BLOCKS_PER_STAGE * stage + 1
        later = tuple(blocks[stage:])
        choices: dict[str, tuple[Choice, ...]] = {
            "kernel_size": KERNEL_SIZES,
            "expand_ratio": EXPAND_RATIOS,
        }
        for field, values in choices.items():
            genes.append(Gene(f"stage_{stage}_{field}", values, "backbone", field, stage, later))
        genes.append(
            Gene(
                blocks[stage],
                (None, *range(first, first + BLOCKS_PER_STAGE)),
                "backbone",
                "level",
                stage,
                per_level=f"stage_{stage}_{{}}",
            )
        )
    return genes


def once_for_all_setting(backbone: Backbone) -> OnceForAllSetting:
    """The setting of the elastic network for a backbone.

    Raises:
        InputError: A block does not exist, or the kernel sizes or expand ratios do not match the
            stages up to the deepest level.
    """
    stages = [_stage(block) for block in backbone.levels]
    if min(backbone.levels) < 1 or max(stages) >= len(STAGES):
        last = len(STAGES) * BLOCKS_PER_STAGE
        raise InputError(f"blocks are {list(backbone.levels)}, expected 1 to {last}")
    run = max(stages) + 1
    names = ("kernel_size", "expand_ratio")
    if set(backbone.setting) != set(names):
        raise InputError(
            f"{backbone.network}: the setting has {sorted(backbone.setting)}, expected "
            f"{list(names)}"
        )
    sizes: dict[str, tuple[Any, ...]] = {}
    for name in names:
        values = backbone.setting[name]
        if not isinstance(values, tuple) or len(values) != run:
            raise InputError(
                f"{backbone.network}: {name} is {values!r}, expected {run} values: one for every "
                f"stage up to that of block {backbone.levels[-1]}"
            )
        if not all(map(is_integer, values)):
            raise InputError(f"{backbone.network}: {name} is {values!r}, expected integers")
        sizes[name] = values
    depths = [min(DEPTHS)] * len(STAGES)
    for stage, block in zip(stages, backbone.levels, strict=True):
        depths[stage] = max(depths[stage], (block - 1) % BLOCKS_PER_STAGE + 1)
    behind = len(STAGES) - run
    kernel_sizes = (*sizes["kernel_size"], *(min(KERNEL_SIZES),) * behind)
    expand_ratios = (*sizes["expand_ratio"], *(min(EXPAND_RATIOS),) * behind)
    return OnceForAllSetting(
        kernel_sizes=tuple(size for size in kernel_sizes for _ in range(BLOCKS_PER_STAGE)),
        expand_ratios=tuple(ratio for ratio in expand_ratios for _ in range(BLOCKS_PER_STAGE)),
        depths=tuple(depths),
        levels=backbone.levels,
    )


def backbone_cost(backbone: Backbone, image_size: int) -> PublishedCost:
    """Cost per image of a backbone of the published networks, counted as published.

    Raises:
        InputError: The setting is invalid, or the network is not a published one.
    """
    if backbone.network not in _WIDTHS:
        raise InputError(f"{backbone.network} has no published FLOPs, only total FLOPs")
    width, setting = _WIDTHS[backbone.network], once_for_all_setting(backbone)
    return published_cost(width, setting, image_size)


def describe_setting(backbone: Backbone) -> str:
    """A short description such as "w1.2, kernels 7 3, ratios 6 4"."""
    parts = [f"w{_WIDTHS[backbone.network]}"]
    for word, name in (("kernels", "kernel_size"), ("ratios", "expand_ratio")):
        values = backbone.setting[name]
        assert isinstance(values, tuple)
        parts.append(f"{word} {' '.join(map(str, values))}")
    return ", ".join(parts)


def block_names(backbone: Backbone) -> tuple[str, ...]:
    """Names of the selected blocks, such as "block 7"."""
    return tuple(f"block {block}" for block in backbone.levels)


def random_network(width: float, *, seed: int) -> OnceForAllMobileNetV3:
    """An elastic network with random weights."""
    with SeededWeights(seed):
        network = OnceForAllMobileNetV3(width)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return network.eval().requires_grad_(False)


def _stage(block: int) -> int:
    """The stage of a block, from 0."""
    return (block - 1) // BLOCKS_PER_STAGE


def _networks(space: str) -> dict[str, float]:
    """Widths of the networks of a space, by name."""
    names = {name: width for width, name in NETWORKS.items() if space in (OFA_MBV3, name)}
    if not names:
        raise unknown_space(space)
    return names


def _trained(
    name: str,
    width: float,
    weights: str,
    alone: bool,
    progress: Progress | None,
) -> OnceForAllMobileNetV3:
    with torch.device("meta"):  # weights replace all of its tensors
        network = OnceForAllMobileNetV3(width)
    expected = {key: value.shape for key, value in network.state_dict().items()}
    path = Path(weights)
    if weights == "auto":
        state = official_weights(name, expected, progress=progress)
    elif weights == "pretrained":
        raise InputError(f"weights 'pretrained' come from timm's hub; give 'auto' for {name}")
    elif path.is_dir():
        state = weights_in_file(file_in_folder(path, name), name, expected)
    elif alone:
        state = weights_in_file(path, name, expected)
    else:
        raise InputError(
            f"{path}: no such folder, expected one that holds the weights of both networks; to "
            f"use a single network, give its name as the space, such as {name}"
        )
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
