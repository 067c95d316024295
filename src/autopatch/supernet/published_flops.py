"""The FLOPs of the published method: those that DeepSpeed's profiler counts in its supernet.

Two for each multiply-add of a convolution, one for each bias, two for each element that goes
through batch norm and one for each that goes through an activation. The matrices that make small
kernels of large ones are counted, though a static subnet has them applied once for all. Additions
of residual branches, the products and means of squeeze-and-excitation, pooling, resizing and the
search for nearest neighbors are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from autopatch.supernet.architecture import KERNEL_SIZES
from autopatch.supernet.elastic import StaticNetwork, SubnetSetting


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


def published_cost(width: float, setting: SubnetSetting, image_size: int) -> PublishedCost:
    """Counts a subnet.

    Args:
        width: Factor on the channels.
        setting: What the elastic network is set to.
        image_size: Side of the image, in pixels.
    """
    with torch.device("meta"):
        network = StaticNetwork(width, setting).eval()
        image = torch.empty(1, 3, image_size, image_size)
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

    for module in network.modules():
        module.register_forward_hook(counted)
    with torch.no_grad():
        network(image)
    transform_macs = 0
    for number in setting.blocks():
        channels = int(network.get_parameter(f"blocks.{number}.conv_dw.weight").shape[0])
        for size in KERNEL_SIZES:
            if setting.kernel_sizes[number - 1] <= size < max(KERNEL_SIZES):
                transform_macs += channels * size**4
    return PublishedCost(transform_macs=transform_macs, **count)
