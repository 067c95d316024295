"""FLOPs of the published method, counted as DeepSpeed's profiler does in the supernet.

Each multiply-add of a convolution counts as two FLOPs, each bias addition as one, each element of a
batch norm as two, and each element of an activation as one. The matrices that turn large kernels
into small ones count, too, although a static subnet applies them only once. Residual additions, the
products and means of squeeze-and-excitation, pooling, resizing and the nearest-neighbor search do
not count.
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

_ACTIVATIONS = (nn.ReLU, nn.Hardswish, nn.Hardsigmoid)


@dataclass(frozen=True)
class PublishedCost:
    """Counts per image.

    Attributes:
        conv_macs: Multiply-adds of all convolutions, including those of squeeze-and-excitation.
        transform_macs: Multiply-adds of the kernel transformations; the same for every image size.
        bias_flops: Elements to which a bias is added.
        bn_elements: Elements of batch norms.
        activation_elements: Elements of activations.
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
    """Counts the cost of a subnet.

    Args:
        width: Factor for the numbers of channels.
        setting: The setting of the elastic network.
        image_size: Side of the image in pixels.
    """
    parts = [_first_layers(width, image_size)]
    for block in setting.blocks():
        sizes = setting.kernel_sizes[block - 1], setting.expand_ratios[block - 1]
        parts.append(_block(width, block, *sizes, image_size))
    counts = zip(*map(astuple, parts), strict=True)
    return PublishedCost(*map(sum, counts))


# Cached, because thousands of subnets in a search share about a hundred different blocks.


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
    side = -(-image_size // block_stride(block - 1))  # each halving rounds up
    smaller = [size for size in KERNEL_SIZES if kernel_size <= size < max(KERNEL_SIZES)]
    transform_macs = channels * expand_ratio * sum(size**4 for size in smaller)
    return replace(_count(layers, channels, side), transform_macs=transform_macs)


def _count(layers: nn.Module, channels: int, side: int) -> PublishedCost:
    """Counts layers, without the kernel transformations."""
    count = dict.fromkeys(("conv_macs", "bias_flops", "bn_elements", "activation_elements"), 0)

    def counted(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            kernel = module.in_channels // module.groups * prod(module.kernel_size)
            count["conv_macs"] += output.numel() * kernel
            count["bias_flops"] += 0 if module.bias is None else output.numel()
        elif isinstance(module, nn.BatchNorm2d):
            count["bn_elements"] += output.numel()
        elif isinstance(module, _ACTIVATIONS):
            count["activation_elements"] += output.numel()

    for module in layers.modules():
        module.register_forward_hook(counted)
        # Batch norms and activations change no shape, but cost most of the time without values.
        if isinstance(module, nn.BatchNorm2d):
            module.forward = getattr(module, "act", nn.Identity()).__call__  # type: ignore[method-assign]
        elif isinstance(module, _ACTIVATIONS):
            module.forward = nn.Identity().__call__  # type: ignore[method-assign]
    with torch.no_grad():
        layers.eval()(torch.empty(1, channels, side, side, device="meta"))
    return PublishedCost(transform_macs=0, **count)
