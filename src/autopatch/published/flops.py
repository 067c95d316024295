"""The FLOPs of the published method: those that DeepSpeed's profiler counts in its supernet.

Two for each multiply-add of a convolution, one for each bias, two for each element that goes
through batch norm and one for each that goes through an activation. The matrices that make small
kernels of large ones are counted, though a static subnet has them applied once for all. Additions
of residual branches, the products and means of squeeze-and-excitation, pooling, resizing and the
search for nearest neighbors are not counted.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn

from autopatch.published.network import (
    KERNEL_SIZES,
    OnceForAllSetting,
    block_channels,
    block_stride,
    make_block,
    make_first_layers,
)


@dataclass(frozen=True)
class PublishedCost:
    """What is counted, for one image.

    Attributes:
        conv_macs: Multiply-adds of all convolutions, those of squeeze-and-excitation included.
        transform_macs: Multiply-adds of the matrices that make the kernels; whatever the image.
        bias_flops: Elements that a bias is added to.
        bn_elements: Elements that go through batch norm.
        activation_elements: Elements that go through an activation function.
    """

    conv_macs: int
    transform_macs: int
    bias_flops: int
    bn_elements: int
    activation_elements: int

    @property
    def macs(self) -> int:
        """All multiply-adds."""
        return self.conv_macs + self.transform_macs

    @property
    def flops(self) -> int:
        """The first objective of the published search."""
        return 2 * self.macs + self.bias_flops + 2 * self.bn_elements + self.activation_elements


def published_cost(width: float, setting: OnceForAllSetting, image_size: int) -> PublishedCost:
    """Counts a subnet.

    Args:
        width: Factor on the channels.
        setting: What the elastic network is set to.
        image_size: Side of the image, in pixels.
    """
    parts = [_first_layers(width, image_size)]
    for block in setting.blocks():
        sizes = setting.kernel_sizes[block - 1], setting.expand_ratios[block - 1]
        parts.append(_block(width, block, *sizes, image_size))
    counts = zip(*map(astuple, parts), strict=True)
    return PublishedCost(*map(sum, counts))


# A search asks for thousands of subnets, which are made of some hundred blocks.


@cache
def _first_layers(width: float, image_size: int) -> PublishedCost:
    with torch.device("meta"):
        layers = nn.Sequential(*make_first_layers(width))
    return _count(layers, 3, image_size)


@cache
def _block(
    width: float, block: int, kernel_size: int, expand_ratio: int, image_size: int
) -> PublishedCost:
    with torch.device("meta"):
        layers = make_block(width, block, kernel_size, expand_ratio)
    channels = block_channels(block - 1, width)
    side = -(-image_size // block_stride(block - 1))  # every halving rounds up
    smaller = [size for size in KERNEL_SIZES if kernel_size <= size < max(KERNEL_SIZES)]
    transform_macs = channels * expand_ratio * sum(size**4 for size in smaller)
    return replace(_count(layers, channels, side), transform_macs=transform_macs)


def _count(layers: nn.Module, channels: int, side: int) -> PublishedCost:
    """Counts layers, without the matrices that make their kernels."""
    count = dict.fromkeys(("conv_macs", "bias_flops", "bn_elements", "activation_elements"), 0)

    def counted(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            kernel = module.in_channels // module.groups * prod(module.kernel_size)
            count["conv_macs"] += output.numel() * kernel
            count["bias_flops"] += 0 if module.bias is None else output.numel()
        elif isinstance(module, nn.BatchNorm2d):
            count["bn_elements"] += output.numel()
        elif isinstance(module, nn.ReLU | nn.Hardswish | nn.Hardsigmoid):
            count["activation_elements"] += output.numel()

    for module in layers.modules():
        module.register_forward_hook(counted)
    with torch.no_grad():
        layers.eval()(torch.empty(1, channels, side, side, device="meta"))
    return PublishedCost(transform_macs=0, **count)
