"""Once-for-All MobileNetV3: one set of weights for thousands of networks.

Cai et al., Once-for-All: Train One Network and Specialize it for Efficient Deployment, ICLR 2020.
Twenty inverted-residual blocks in five stages, elastic in three ways:

- depth: a stage runs its first 2, 3 or 4 blocks;
- expand ratio: a block uses its leading inner channels, 3, 4 or 6 times as many as its input has;
- kernel size: a 5x5 kernel is the middle of the 7x7 kernel, multiplied by a 25x25 matrix; a 3x3
  kernel is the middle of that 5x5 kernel, multiplied by a 9x9 matrix.

The blocks are timm's. `OnceForAllMobileNetV3` holds the weights of the largest network and the
matrices. `StaticNetwork` is a smaller network. It uses the leading parts of these weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv_bn_act import ConvNormAct
from timm.layers.helpers import make_divisible
from timm.models._efficientnet_blocks import (
    DepthwiseSeparableConv,
    InvertedResidual,
    SqueezeExcite,
)
from torch import nn
from torch.func import functional_call

from autopatch.errors import InputError
from autopatch.supernet import Level

KERNEL_SIZES = (3, 5, 7)
EXPAND_RATIOS = (3, 4, 6)
DEPTHS = (2, 3, 4)
BLOCKS_PER_STAGE = max(DEPTHS)
_KERNEL_STEPS = tuple(pairwise(sorted(KERNEL_SIZES, reverse=True)))


@dataclass(frozen=True)
class _Stage:
    channels: int  # at width 1.0
    stride: int  # of its first block
    activation: type[nn.Module]
    squeeze_excite: bool


STAGES = (
    _Stage(24, 2, nn.ReLU, False),
    _Stage(40, 2, nn.ReLU, True),
    _Stage(80, 2, nn.Hardswish, False),
    _Stage(112, 1, nn.Hardswish, True),
    _Stage(160, 2, nn.Hardswish, True),
)
_STEM_CHANNELS, _EXPANDED_CHANNELS, _MIXED_CHANNELS, _CLASSES = 16, 960, 1280, 1000

# Reduces to a quarter of the inner channels, rounded to a multiple of 8; the gate is a hard
# sigmoid.
_SqueezeExcite: Any = partial(
    SqueezeExcite, rd_round_fn=make_divisible, gate_layer=nn.Hardsigmoid, force_act_layer=nn.ReLU
)


@dataclass(frozen=True)
class OnceForAllSetting:
    """The setting of the elastic network.

    Attributes:
        kernel_sizes: 3, 5 or 7 for each of the 20 blocks.
        expand_ratios: 3, 4 or 6 for each of the 20 blocks.
        depths: 2, 3 or 4 blocks for each of the 5 stages.
        levels: Blocks whose outputs are the feature maps, 1 to 20, ascending. All later blocks are
            skipped.

    Raises:
        InputError: A value is not allowed, or the depth of a stage skips the block of a level.
    """

    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    depths: tuple[int, ...]
    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        blocks = len(STAGES) * BLOCKS_PER_STAGE
        for name, values, count, choices in (
            ("kernel sizes", self.kernel_sizes, blocks, KERNEL_SIZES),
            ("expand ratios", self.expand_ratios, blocks, EXPAND_RATIOS),
            ("depths", self.depths, len(STAGES), DEPTHS),
        ):
            if len(values) != count or not set(values) <= set(choices):
                raise InputError(f"{name} are {list(values)}, expected {count} of {choices}")
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise InputError(f"blocks are {list(self.levels)}, expected at least one, ascending")
        left_out = set(self.levels) - set(self._within_depths())
        if left_out:
            raise InputError(f"block {min(left_out)} is not run: depths are {list(self.depths)}")

    def blocks(self) -> tuple[int, ...]:
        """The blocks that run, 1 to 20, in order."""
        return tuple(block for block in self._within_depths() if block <= self.levels[-1])

    def _within_depths(self) -> list[int]:
        return [
            BLOCKS_PER_STAGE * stage + place + 1
            for stage, depth in enumerate(self.depths)
            for place in range(depth)
        ]


LARGEST = OnceForAllSetting(
    kernel_sizes=(max(KERNEL_SIZES),) * len(STAGES) * BLOCKS_PER_STAGE,
    expand_ratios=(max(EXPAND_RATIOS),) * len(STAGES) * BLOCKS_PER_STAGE,
    depths=(max(DEPTHS),) * len(STAGES),
    levels=(len(STAGES) * BLOCKS_PER_STAGE,),
)


def stage_channels(width: float) -> tuple[int, ...]:
    """Number of channels of each of the five stages."""
    return tuple(_in_eights(stage.channels * width) for stage in STAGES)


def block_channels(block: int, width: float) -> int:
    """Number of channels of a block's output. Block 0 comes before the stages."""
    if block == 0:
        return _in_eights(_STEM_CHANNELS * width)
    return stage_channels(width)[(block - 1) // BLOCKS_PER_STAGE]


def block_stride(block: int) -> int:
    """Input pixels per cell of a block's output, along each axis."""
    stride = 2  # of the stem
    for stage in STAGES[: (block + BLOCKS_PER_STAGE - 1) // BLOCKS_PER_STAGE]:
        stride *= stage.stride
    return stride


def block_level(block: int, width: float) -> Level:
    """The feature level at the output of a block."""
    return Level(block, block_stride(block), block_channels(block, width))


def make_first_layers(width: float) -> tuple[nn.Module, nn.Module]:
    """The stem and block 0, which all networks of a width have in common."""
    channels = block_channels(0, width)
    return (
        ConvNormAct(3, channels, 3, stride=2, act_layer=nn.Hardswish),
        DepthwiseSeparableConv(channels, channels, 3, act_layer=nn.ReLU),
    )


def make_block(width: float, block: int, kernel_size: int, expand_ratio: int) -> nn.Module:
    """A block, 1 to 20, with random weights."""
    stage = STAGES[(block - 1) // BLOCKS_PER_STAGE]
    return InvertedResidual(
        block_channels(block - 1, width),
        block_channels(block, width),
        kernel_size,
        stride=stage.stride if block % BLOCKS_PER_STAGE == 1 else 1,
        exp_ratio=expand_ratio,
        act_layer=stage.activation,
        se_layer=_SqueezeExcite if stage.squeeze_excite else None,
    )


class StaticNetwork(nn.Module):
    """The network of one setting: the stem, and the blocks that run, by number.

    Args:
        width: Factor for the numbers of channels.
        setting: The setting.
    """

    def __init__(self, width: float, setting: OnceForAllSetting) -> None:
        super().__init__()
        self.levels = setting.levels
        self.stem, first = make_first_layers(width)
        self.blocks = nn.ModuleDict({"0": first})
        for block in setting.blocks():
            self.blocks[str(block)] = make_block(
                width, block, setting.kernel_sizes[block - 1], setting.expand_ratios[block - 1]
            )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `[N, C_l, H_l, W_l]` of the levels for normalized images `[N, 3, H, W]`."""
        maps = []
        x = self.stem(images)
        for number, block in self.blocks.items():
            x = block(x)
            if int(number) in self.levels:
                maps.append(x)
        return maps

    def layers(self) -> list[nn.Module]:
        """The blocks in order. The first is preceded by the stem and block 0."""
        first, *blocks = list(self.blocks.values())[1:]
        return [nn.Sequential(self.stem, self.blocks["0"], first), *blocks]


class OnceForAllMobileNetV3(StaticNetwork):
    """The elastic network: weights of the largest network, and matrices that transform kernels.

    Its `state_dict()` uses the names of the published checkpoints. The classifier is not used; with
    it, a complete checkpoint can be loaded.

    Args:
        width: Factor for the numbers of channels, 1.0 or 1.2 in the published networks.
    """

    def __init__(self, width: float) -> None:
        super().__init__(width, LARGEST)
        self.width = width
        for number, block in self.blocks.items():
            if number == "0":
                continue
            for large, small in _KERNEL_STEPS:
                identity = nn.Parameter(torch.eye(small * small))
                block.register_parameter(_matrix(large, small), identity)
        channels = stage_channels(width)[-1]
        expanded = _in_eights(_EXPANDED_CHANNELS * width)
        mixed = _in_eights(_MIXED_CHANNELS * width)
        self.final_expand_layer = ConvNormAct(channels, expanded, 1, act_layer=nn.Hardswish)
        self.feature_mix_layer = ConvNormAct(expanded, mixed, 1, apply_norm=False)
        self.classifier = nn.ModuleDict({"linear": nn.Linear(mixed, _CLASSES)})
        self.register_state_dict_post_hook(_to_published)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_published)  # type: ignore[no-untyped-call]

    def forward(
        self, images: torch.Tensor, setting: OnceForAllSetting = LARGEST
    ) -> list[torch.Tensor]:
        """Feature maps of a subnet, bit for bit equal to those of `get_active_subnet(setting)`.
        Gradients reach the shared weights."""
        with torch.device("meta"):
            network = StaticNetwork(self.width, setting).train(self.training)
        maps: list[torch.Tensor] = functional_call(network, self._active_state(network), (images,))
        return maps

    def get_active_subnet(self, setting: OnceForAllSetting) -> StaticNetwork:
        """The network of a setting, with a copy of its weights; frozen, in eval mode."""
        with torch.device("meta"):
            network = StaticNetwork(self.width, setting)
        state = {
            name: value.detach().clone() for name, value in self._active_state(network).items()
        }
        network.load_state_dict(state, assign=True)
        return network.eval().requires_grad_(False)

    def _active_state(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """The weights of a smaller network, by that network's names."""
        weights = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        state = {}
        for name, small in network.state_dict().items():
            large = weights[name]
            if small.ndim == 4 and small.shape[-1] < large.shape[-1]:
                block = name.removesuffix("conv_dw.weight")
                steps = [
                    weights[f"{block}{_matrix(*step)}"]
                    for step in _KERNEL_STEPS
                    if step[1] >= small.shape[-1]
                ]
                large = transform_kernels(large[: len(small)], steps)
            leading = large[tuple(slice(size) for size in small.shape)]
            # Kernels are made channels-last, so that convolutions get the same operands whichever
            # way the network is run. They must be cloned: a depthwise kernel counts as contiguous
            # in every memory format, so a conversion alone would keep its strides. Statistics must
            # not be cloned, because training writes to them.
            kernel = small.ndim == 4
            state[name] = leading.clone(memory_format=torch.channels_last) if kernel else leading
        return state


def transform_kernels(kernels: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Smaller depthwise kernels from larger ones.

    Args:
        kernels: `[C, 1, K, K]`.
        matrices: A matrix `[k * k, k * k]` for each step from K to k = K - 2. It is multiplied with
            the middle of the kernel.

    Returns:
        `[C, 1, k, k]`, with the k of the last step.
    """
    for matrix in matrices:
        middle = kernels[:, :, 1:-1, 1:-1]
        kernels = F.linear(middle.flatten(1), matrix).view(middle.shape)
    return kernels


def _in_eights(channels: float) -> int:
    """Number of channels rounded to a multiple of 8, down by at most a tenth."""
    return int(make_divisible(channels))  # type: ignore[no-untyped-call]


def _matrix(large: int, small: int) -> str:
    return f"{large}to{small}_matrix"


# Names in the published checkpoints, by timm's names, which are used here.
_PUBLISHED_NAMES = {
    "conv_pw": "inverted_bottleneck.conv.conv",
    "bn1": "inverted_bottleneck.bn.bn",
    "conv_dw": "depth_conv.conv.conv",
    "bn2": "depth_conv.bn.bn",
    "se.conv_reduce": "depth_conv.se.fc.reduce",
    "se.conv_expand": "depth_conv.se.fc.expand",
    "conv_pwl": "point_linear.conv.conv",
    "bn3": "point_linear.bn.bn",
}
_PUBLISHED_FIRST_BLOCK = {
    "conv_dw": "depth_conv.conv",
    "bn1": "depth_conv.bn",
    "conv_pw": "point_linear.conv",
    "bn2": "point_linear.bn",
}


def _published_name(name: str) -> str:
    head, _, rest = name.partition(".")
    if head == "stem":
        return f"first_conv.{rest}"
    if head != "blocks":
        return name
    block, _, rest = rest.partition(".")
    module, _, tensor = rest.rpartition(".")
    if not module:  # a matrix
        return f"blocks.{block}.conv.depth_conv.conv.{tensor}"
    names = _PUBLISHED_FIRST_BLOCK if block == "0" else _PUBLISHED_NAMES
    return f"blocks.{block}.conv.{names[module]}.{tensor}"


def _to_published(
    module: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: object
) -> None:
    renamed = {
        prefix + _published_name(name.removeprefix(prefix)): state.pop(name)
        for name in list(state)
        if name.startswith(prefix)
    }
    state.update(renamed)


def _from_published(
    module: nn.Module, state: dict[str, torch.Tensor], prefix: str, *other: object
) -> None:
    for own, _ in (*module.named_parameters(), *module.named_buffers()):
        published = prefix + _published_name(own)
        if published in state:
            state[prefix + own] = state.pop(published)
