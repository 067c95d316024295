"""Makes timm's inverted-residual networks elastic: one set of weights for many networks.

A stage is elastic in two ways:

- depth: the last blocks of the stage can be skipped if they have a skip connection;
- expand ratio: each inverted-residual block uses all of its inner channels (6), the leading two
  thirds (4) or the leading half (3), as in Once-for-All (Cai et al., ICLR 2020).

Each ratio has its own batch norms (Yu et al., Slimmable Neural Networks, ICLR 2019), depthwise
convolutions and projections; expansions and squeeze-and-excite are shared. In a shortened stage,
the last block that runs has its own projection, to make up for the skipped blocks. All subnets use
the batch norm statistics of the original network, if its batch norm is not folded. The largest
network is the original.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from timm.layers.helpers import make_divisible
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import nn
from torch.func import functional_call

from autopatch.errors import InputError
from autopatch.supernet.backbone import Level
from autopatch.supernet.timm_features import LEAST_STRIDE, feature_levels, features_model

RATIOS = (6, 4, 3)
"""Expand ratios. 6 stands for all inner channels of a block, even if the true ratio differs."""

_LEFT_OUT = 2  # largest number of skipped blocks per stage
_INSIDE = ("bn1", "conv_dw", "bn2")
_PROJECTION = ("conv_pwl", "bn3")
_OF_A_RATIO = (*_INSIDE, *_PROJECTION)


@dataclass(frozen=True)
class Section:
    """The stages between one level and the next.

    Attributes:
        level: The level at the end.
        stages: Numbers of the stages.
        depths: Choices of depth, ascending: number of blocks that each stage runs; a stage with
            fewer blocks runs all.
    """

    level: Level
    stages: tuple[int, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True)
class ElasticSetting:
    """The setting of an elastic network, with a ratio and a depth for each section up to the
    deepest level.

    Attributes:
        expand_ratios: 6, 4 or 3 for each section.
        depths: One of `Section.depths` for each section.
        levels: Indices of the selected levels, ascending.
    """

    expand_ratios: tuple[int, ...]
    depths: tuple[int, ...]
    levels: tuple[int, ...]


def sections(timm_model: str, timm_kwargs: Mapping[str, Any]) -> tuple[Section, ...]:
    """The sections of a timm model, one for each level of stride 4 or more, in order of depth.

    Raises:
        InputError: timm cannot build the model, or it does not consist of inverted-residual blocks.
    """
    with torch.device("meta"):
        levels = feature_levels(timm_model, timm_kwargs)
        model: Any = features_model(
            timm_model, timm_kwargs, out_indices=[level.index for level in levels]
        )
    blocks = [block for stage in getattr(model, "blocks", ()) for block in stage]
    elastic = [block for block in blocks if isinstance(block, InvertedResidual)]
    if getattr(model, "feature_hooks", None) is not None:
        raise InputError(
            f"timm_kwargs {dict(timm_kwargs)}: maps of timm:{timm_model} are taken within blocks, "
            "expected those at the ends of blocks"
        )
    if not elastic:
        raise InputError(f"timm:{timm_model} has no inverted-residual blocks to be made elastic")
    for block in elastic:
        for part in (block.conv_pw, block.conv_dw, block.conv_pwl):
            if not isinstance(part, nn.Conv2d):
                raise InputError(
                    f"timm:{timm_model} has blocks of {type(part).__name__}, which cannot be "
                    "narrowed"
                )
    # A level is named "bn1" (the stem) or starts with "blocks.3" or the like.
    names = [name.split(".") for name in model.feature_info.module_name()]
    ends = [int(name[1]) + 1 if name[0] == "blocks" else 0 for name in names]
    found: list[Section] = []
    for level, (first, end) in zip(levels, pairwise([0, *ends]), strict=True):
        if level.stride >= LEAST_STRIDE:
            most = max(len(stage) for stage in model.blocks[first:end])
            # All levels build on the first section, so skipping blocks there loses too much.
            least = max(most - _LEFT_OUT, 1) if found else most
            depths = tuple(range(least, most + 1))
            found.append(Section(level, tuple(range(first, end)), depths))
    return tuple(found)


class ElasticTimmNetwork(nn.Module):
    """The weights of all subnets.

    Narrow subnets keep the leading inner channels of each block, so the most important channels
    should come first.

    Args:
        timm_model: Name of a model of timm.
        timm_kwargs: Arguments of `timm.create_model`.
        seed: Seed of the random weights.

    Attributes:
        sections: The sections, with their choices of depth.

    Raises:
        InputError: timm cannot build the model, or it is not made of inverted-residual blocks.
    """

    def __init__(self, timm_model: str, timm_kwargs: Mapping[str, Any], *, seed: int = 0) -> None:
        super().__init__()
        self.timm_model = timm_model
        self.timm_kwargs = dict(timm_kwargs)
        self.sections = sections(timm_model, timm_kwargs)
        indices = [section.level.index for section in self.sections]
        self.largest = features_model(timm_model, timm_kwargs, out_indices=indices, seed=seed)
        # Networks without weights, by their levels. The dictionary keeps them out of the state.
        self._unset = {tuple(indices): copy.deepcopy(self.largest).to("meta")}
        self.own = nn.ModuleDict()
        self.start_from_largest()
        self.eval()  # always, so that batch norm statistics do not change

    def train(self, mode: bool = True) -> ElasticTimmNetwork:
        """Keeps the network in eval mode; its subnets are trained in this mode, too."""
        return super().train(False)

    @property
    def largest_setting(self) -> ElasticSetting:
        """The setting of the whole network, with all levels."""
        return ElasticSetting(
            expand_ratios=(RATIOS[0],) * len(self.sections),
            depths=tuple(section.depths[-1] for section in self.sections),
            levels=tuple(section.level.index for section in self.sections),
        )

    def start_from_largest(self) -> None:
        """Copies the weights of the largest network to the separate weights of narrow blocks and of
        the last blocks of shortened stages."""
        blocks = {n: b for n, b in self.largest.named_modules() if isinstance(b, InvertedResidual)}
        ends = {
            name: block
            for name, block in blocks.items()
            if any(_may_end(name, section, self.largest) for section in self.sections)
        }
        for ratio in RATIOS:
            if ratio != RATIOS[0]:
                self.own[own_key(ratio)] = _copies(blocks, _OF_A_RATIO, ratio)
            self.own[own_key(ratio, ends=True)] = _copies(ends, _PROJECTION, ratio)

    def forward(self, images: torch.Tensor, setting: ElasticSetting) -> list[torch.Tensor]:
        """Feature maps of a subnet for normalized images; gradients reach the shared weights."""
        network = self._skeleton(setting)
        maps: list[torch.Tensor] = functional_call(
            network, self._active_state(network, setting), (images,)
        )
        return maps

    def get_active_subnet(self, setting: ElasticSetting) -> nn.Module:
        """The network of a setting, with a copy of its weights; frozen, in eval mode."""
        network = self._skeleton(setting)
        state = self._active_state(network, setting)
        network.load_state_dict(
            {name: value.detach().clone() for name, value in state.items()}, assign=True
        )
        return network.requires_grad_(False)

    def _skeleton(self, setting: ElasticSetting) -> nn.Module:
        if setting.levels not in self._unset:
            with torch.device("meta"):
                self._unset[setting.levels] = features_model(
                    self.timm_model, self.timm_kwargs, out_indices=setting.levels
                )
        network = copy.deepcopy(self._unset[setting.levels])
        return _set_to(network.eval(), self.sections, setting)

    def _active_state(self, network: Any, setting: ElasticSetting) -> dict[str, torch.Tensor]:
        """The weights of a subnet, by the subnet's names."""
        whole: Any = self.largest
        shared = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        own = dict(self.own.named_parameters())
        ratios = {
            stage: ratio
            for section, ratio in zip(self.sections, setting.expand_ratios, strict=False)
            for stage in section.stages
        }
        state = {}
        for name, small in network.state_dict().items():
            large = shared[name]
            if name.startswith("blocks."):
                stage, block = map(int, name.split(".")[1:3])
                run, all_of_it = len(network.blocks[stage]), len(whole.blocks[stage])
                ratio = ratios.get(stage, RATIOS[0])
                keys = [own_key(ratio)]
                if block + 1 == run < all_of_it:
                    keys.append(own_key(ratio, ends=True))
                for key in keys:
                    large = own.get(f"{key}.{parameter_key(name)}", large)
            state[name] = large[tuple(slice(size) for size in small.shape)]
        return state


def static_network(
    timm_model: str, timm_kwargs: Mapping[str, Any], setting: ElasticSetting
) -> nn.Module:
    """The network of a setting with random weights: timm's, with blocks removed or narrowed.

    Raises:
        InputError: The setting does not fit the model.
    """
    network = features_model(timm_model, timm_kwargs, out_indices=setting.levels)
    return _set_to(network, sections(timm_model, timm_kwargs), setting)


def check_setting(sections: Sequence[Section], setting: ElasticSetting) -> None:
    """Raises InputError unless a network with these sections can have the setting."""
    numbers = {section.level.index: number for number, section in enumerate(sections)}
    for level in setting.levels:
        if level not in numbers:
            raise InputError(f"level is {level}, expected one of {', '.join(map(str, numbers))}")
    run = numbers[setting.levels[-1]] + 1
    for name, values in (
        ("expand ratios", setting.expand_ratios),
        ("depths", setting.depths),
    ):
        if len(values) != run:
            raise InputError(
                f"{len(values)} {name}, expected {run}: one for each level up to "
                f"{setting.levels[-1]}"
            )
    for section, ratio, depth in zip(sections, setting.expand_ratios, setting.depths, strict=False):
        if ratio not in RATIOS:
            raise InputError(f"expand ratio is {ratio}, expected one of {RATIOS}")
        if depth not in section.depths:
            raise InputError(
                f"depth is {depth} at level {section.level.index}, expected one of {section.depths}"
            )


def section_layers(network: Any, sections: Sequence[Section]) -> list[nn.Sequential]:
    """The layers of a static network, section by section, up to its deepest level. The first
    section is preceded by the stem and all stages before it."""
    stem = [part for name, part in network.named_children() if name != "blocks"]
    ends = [section.stages[-1] + 1 for section in sections]
    parts = [
        network.blocks[first:end]
        for first, end in pairwise([0, *ends])
        if end <= len(network.blocks)
    ]
    return [nn.Sequential(*stem, *parts[0]), *parts[1:]]


def _set_to(network: Any, sections: Sequence[Section], setting: ElasticSetting) -> nn.Module:
    check_setting(sections, setting)
    for section, ratio, depth in zip(sections, setting.expand_ratios, setting.depths, strict=False):
        for stage in section.stages:
            blocks = network.blocks[stage]
            del blocks[_blocks_run(blocks, depth) :]
            for block in blocks:
                if isinstance(block, InvertedResidual):
                    _narrow(block, ratio)
    result: nn.Module = network
    return result


def _blocks_run(blocks: Any, depth: int) -> int:
    """Number of blocks of a stage that run. Only blocks with a skip connection can be skipped."""
    run = len(blocks)
    while run > depth and getattr(blocks[run - 1], "has_skip", False):
        run -= 1
    return run


def _channels(block: InvertedResidual, ratio: int) -> int:
    """Number of inner channels of a block at a ratio, rounded to a multiple of 8 below ratio 6."""
    large = int(block.conv_pwl.in_channels)
    if ratio == RATIOS[0]:
        return large
    return int(make_divisible(large * ratio / RATIOS[0]))  # type: ignore[no-untyped-call]


def _narrow(block: InvertedResidual, ratio: int) -> None:
    large, small = block.conv_pwl.in_channels, _channels(block, ratio)
    if small == large:
        return
    squeeze = block.se if isinstance(block.se, SqueezeExcite) else None
    for module, sizes in (
        (block.conv_pw, {"out_channels": small}),
        (block.bn1, {"num_features": small}),
        (block.conv_dw, {"in_channels": small, "out_channels": small, "groups": small}),
        (block.bn2, {"num_features": small}),
        (squeeze and squeeze.conv_reduce, {"in_channels": small}),
        (squeeze and squeeze.conv_expand, {"out_channels": small}),
        (block.conv_pwl, {"in_channels": small}),
    ):
        if module is None:
            continue
        for name, size in sizes.items():
            setattr(module, name, size)
        inputs = set(sizes) == {"in_channels"}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.ndim == 0 or (inputs and tensor.ndim == 1):
                continue  # a count, or a bias of the outputs
            part = tensor.detach()[:, :small] if inputs else tensor.detach()[:small]
            setattr(module, name, nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part)


def own_key(ratio: int, *, ends: bool = False) -> str:
    """Key in `ElasticTimmNetwork.own` of the separate weights of a ratio; with `ends`, of the last
    blocks of shortened stages."""
    return f"{ratio}_end" if ends else str(ratio)


def _may_end(name: str, section: Section, network: Any) -> bool:
    """Whether a block is the last of a shortened stage at some depth."""
    stage, block = map(int, name.split(".")[1:3])
    blocks = network.blocks[stage]
    return stage in section.stages and any(
        block + 1 == _blocks_run(blocks, depth) < len(blocks) for depth in section.depths
    )


def _copies(
    blocks: Mapping[str, InvertedResidual], parts: Sequence[str], ratio: int
) -> nn.ParameterDict:
    """Copies of the blocks' parameters, narrowed to the channels of a ratio."""
    own = {}
    for name, block in blocks.items():
        small = _channels(block, ratio)
        for part in parts:
            for kind, value in getattr(block, part).named_parameters():
                leading = value.detach()
                if part in _INSIDE:
                    leading = leading[:small]
                elif value.ndim > 1:  # a projection
                    leading = leading[:, :small]
                own[parameter_key(f"{name}.{part}.{kind}")] = nn.Parameter(leading.clone())
    return nn.ParameterDict(own)


def parameter_key(name: str) -> str:
    """Name of a parameter in `ElasticTimmNetwork.own`; torch allows no dots there."""
    return name.replace(".", "/")
