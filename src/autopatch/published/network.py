"""Once-for-All MobileNetV3: one set of weights that serves thousands of networks.

Cai et al., Once-for-All: Train One Network and Specialize it for Efficient Deployment, ICLR 2020.
Twenty inverted-residual blocks in five stages, elastic in three ways:

- depth: a stage runs its first 2, 3 or 4 blocks;
- expand ratio: a block keeps its leading channels, 3, 4 or 6 times its input's;
- kernel size: a 5x5 kernel is the middle of the 7x7 one, passed through a 25x25 matrix, and a 3x3
  kernel the middle of that 5x5 one, passed through a 9x9 matrix.

The blocks are timm's. `OnceForAllMobileNetV3` is the largest network and the matrices; a smaller
network is `StaticNetwork` of the same blocks in their smaller size, whose weights are the leading
parts of the large ones.
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

# A quarter of the channels inside, in eights; sigmoid in its piecewise linear form.
_SqueezeExcite: Any = partial(
    SqueezeExcite, rd_round_fn=make_divisible, gate_layer=nn.Hardsigmoid, force_act_layer=nn.ReLU
)


@dataclass(frozen=True)
class OnceForAllSetting:
    """What an elastic network is set to.

    Attributes:
        kernel_sizes: Of each of the 20 blocks, 3, 5 or 7.
        expand_ratios: Of each of the 20 blocks, 3, 4 or 6.
        depths: Blocks of each of the 5 stages, 2, 3 or 4.
        levels: Blocks whose outputs are the feature maps, 1 to 20, ascending; nothing behind the
            last of them is run.

    Raises:
        InputError: A value is not among these, or a level's block is left out by its stage's depth.
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
        """Blocks that are run, 1 to 20, in order."""
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
    """Channels of the five stages' feature maps."""
    return tuple(_in_eights(stage.channels * width) for stage in STAGES)


def block_channels(block: int, width: float) -> int:
    """Channels of a block's output; block 0 is the one before the stages."""
    if block == 0:
        return _in_eights(_STEM_CHANNELS * width)
    return stage_channels(width)[(block - 1) // BLOCKS_PER_STAGE]


def block_stride(block: int) -> int:
    """Pixels of the image for each cell of a block's output, along an axis."""
    stride = 2  # of the stem
    for stage in STAGES[: (block + BLOCKS_PER_STAGE - 1) // BLOCKS_PER_STAGE]:
        stride *= stage.stride
    return stride


def block_level(block: int, width: float) -> Level:
    """The feature level that a block's output is."""
    return Level(block, block_stride(block), block_channels(block, width))


def make_first_layers(width: float) -> tuple[nn.Module, nn.Module]:
    """The stem and block 0, which have nothing to choose."""
    channels = block_channels(0, width)
    return (
        ConvNormAct(3, channels, 3, stride=2, act_layer=nn.Hardswish),
        DepthwiseSeparableConv(channels, channels, 3, act_layer=nn.ReLU),
    )


def make_block(width: float, block: int, kernel_size: int, expand_ratio: int) -> nn.Module:
    """A block on its own, 1 to 20."""
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
    """One network of the elastic ones: a stem, then the blocks that are run, by their numbers.

    Args:
        width: Factor on the channels.
        setting: What is run.
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


class OnceForAllMobileNetV3(StaticNetwork):
    """The elastic network: the largest network's weights, and what makes smaller kernels of them.

    Its `state_dict()` has the names of the published checkpoints. The classifier among them is kept
    so that a checkpoint is held whole; feature maps do not need it.

    Args:
        width: Factor on the channels, 1.0 or 1.2 in the published networks.
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
        """Feature maps of a subnet, as `get_active_subnet(setting)` gives them, bit for bit; with
        gradients to the shared weights."""
        with torch.device("meta"):
            network = StaticNetwork(self.width, setting).train(self.training)
        maps: list[torch.Tensor] = functional_call(network, self._active_state(network), (images,))
        return maps

    def get_active_subnet(self, setting: OnceForAllSetting) -> StaticNetwork:
        """A network of its own with a copy of its part of the weights; frozen, in eval mode."""
        with torch.device("meta"):
            network = StaticNetwork(self.width, setting)
        state = {
            name: value.detach().clone() for name, value in self._active_state(network).items()
        }
        network.load_state_dict(state, assign=True)
        return network.eval().requires_grad_(False)

    def _active_state(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """The part of the weights that a smaller network uses, by its names."""
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
            # Kernels in one memory layout, so that both ways of running the network give the
            # convolutions the same operands; a clone, as a depthwise kernel passes for being in
            # any layout. Statistics as they are: training writes to them.
            kernel = small.ndim == 4
            state[name] = leading.clone(memory_format=torch.channels_last) if kernel else leading
        return state


def transform_kernels(kernels: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Smaller depthwise kernels from larger ones.

    Args:
        kernels: `[C, 1, K, K]`.
        matrices: One `[k * k, k * k]` for each step from K to K - 2: what the middle of the kernel
            is multiplied with.

    Returns:
        `[C, 1, k, k]` with k that of the last matrix.
    """
    for matrix in matrices:
        middle = kernels[:, :, 1:-1, 1:-1]
        kernels = F.linear(middle.flatten(1), matrix).view(middle.shape)
    return kernels


def _in_eights(channels: float) -> int:
    """Channels rounded to a multiple of 8, never by more than a tenth down."""
    return int(make_divisible(channels))  # type: ignore[no-untyped-call]


def _matrix(large: int, small: int) -> str:
    return f"{large}to{small}_matrix"


# Our names, which are timm's, and those of the published checkpoints.
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
