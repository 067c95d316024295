"""Initial weights of subnets: those of a trained network, sorted and fitted without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from autopatch.supernet.elastic_network import (
    RATIOS,
    ElasticSetting,
    ElasticTimmNetwork,
    own_key,
    parameter_key,
)

FITTED_ON = 512  # crops
_RIDGE = 1e-3  # relative to the mean variance


@torch.no_grad()
def start_subnets(network: ElasticTimmNetwork, pixels: torch.Tensor) -> None:
    """Initializes the subnets from a trained largest network, without training.

    The inner channels of each block are sorted, and the separate weights of narrow and shortened
    stages are fitted to the largest network's feature maps.
    """
    sort_channels(network, pixels)
    network.start_from_largest()
    fit_projections(network, pixels)


@torch.no_grad()
def sort_channels(network: ElasticTimmNetwork, pixels: torch.Tensor) -> None:
    """Sorts the inner channels of each block, so that any number of leading channels explains most
    of the block's output.

    Each next channel is the one that most improves a linear fit of the output (orthogonal least
    squares; Chen, Billings & Luo, Int. J. Control 1989). The largest network's feature maps do not
    change.
    """
    blocks = [b for b in network.largest.modules() if isinstance(b, InvertedResidual)]
    orders: dict[InvertedResidual, torch.Tensor] = {}

    def order(block: InvertedResidual, inside: torch.Tensor) -> None:
        inside = _positions(inside)
        centered = inside - inside.mean(dim=0)
        covariance = (centered.T @ centered).double() / len(centered)
        weight = (block.conv_pwl.weight[:, :, 0, 0] * _scale(block.bn3)[:, None]).double()
        orders[block] = _by_fit(covariance, covariance @ weight.T)

    handles = [
        block.conv_pwl.register_forward_pre_hook(
            lambda _, inputs, block=block: order(block, inputs[0])
        )
        for block in blocks
    ]
    network.largest(pixels)
    for handle in handles:
        handle.remove()
    for block, found in orders.items():
        for module in (block.conv_pw, block.bn1, block.conv_dw, block.bn2):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.ndim:
                    tensor.copy_(tensor[found])
        block.conv_pwl.weight.copy_(block.conv_pwl.weight[:, found])
        if hasattr(block.se, "conv_reduce"):
            block.se.conv_reduce.weight.copy_(block.se.conv_reduce.weight[:, found])
            for tensor in block.se.conv_expand.parameters():
                tensor.copy_(tensor[found])


def _by_fit(covariance: torch.Tensor, with_output: torch.Tensor) -> torch.Tensor:
    """Order of variables `[C]`: each next variable most improves a linear fit of the outputs.

    Args:
        covariance: Covariance of the variables, `[C, C]`, float64; overwritten.
        with_output: Covariance of variables and outputs, `[C, D]`, float64; overwritten.
    """
    least = 1e-6 * covariance.diagonal().max()  # smaller values are rounding errors
    order = []
    left = torch.ones_like(covariance[0], dtype=torch.bool)
    for _ in range(len(covariance)):
        variance = covariance.diagonal().clamp(min=least)  # not explained by earlier variables
        gain = with_output.square().sum(dim=1) / variance
        best = int(gain.masked_fill(~left, -1).argmax())
        column = covariance[:, best] / variance[best].sqrt()
        with_output.addr_(column, with_output[best] / variance[best].sqrt(), alpha=-1)
        covariance.addr_(column, column, alpha=-1)
        left[best] = False
        order.append(best)
    return torch.tensor(order)


@torch.no_grad()
def fit_projections(network: ElasticTimmNetwork, pixels: torch.Tensor) -> None:
    """Fits the projections of subnets to the largest network's feature maps, by least squares (He,
    Zhang & Sun, Channel Pruning, ICCV 2017).

    The target of a narrow block is the output of the same block in the largest network. The target
    of a block before skipped blocks is the output of the whole stage. Blocks are fitted in order,
    on the output of the blocks before them in their section, with as few skipped blocks as
    possible.
    """
    expected: dict[str, torch.Tensor] = {}
    handles = [
        block.register_forward_hook(lambda _, __, output, n=name: expected.__setitem__(n, output))
        for name, block in network.largest.named_modules()
        if name.startswith("blocks.") and name.count(".") == 2
    ]
    network.largest(pixels)
    for handle in handles:
        handle.remove()
    fitted: set[str] = set()
    for ratio in RATIOS:
        for shortened in range(max(len(section.depths) for section in network.sections)):
            depths = tuple(
                section.depths[max(len(section.depths) - 1 - shortened, 0)]
                for section in network.sections
            )
            _fit_section_by_section(network, ratio, depths, pixels, expected, fitted)


def _fit_section_by_section(
    network: ElasticTimmNetwork,
    ratio: int,
    depths: tuple[int, ...],
    pixels: torch.Tensor,
    expected: Mapping[str, torch.Tensor],
    fitted: set[str],
) -> None:
    """Fits the separate projections of a ratio at these depths, except those in `fitted`."""
    levels = network.largest_setting.levels
    subnet: Any = network.get_active_subnet(ElasticSetting((ratio,) * len(depths), depths, levels))
    inputs: dict[str, torch.Tensor] = {}

    def before_block(name: str, taken: torch.Tensor) -> torch.Tensor:
        stage, block = map(int, name.split(".")[1:])
        starts = block == 0 and any(section.stages[:1] == (stage,) for section in network.sections)
        if starts and stage > 0:
            # The target of the sections before it.
            taken = expected[f"blocks.{stage - 1}.{len(network.largest.blocks[stage - 1]) - 1}"]
        inputs[name] = taken
        return taken

    def before_projection(name: str, block: InvertedResidual, inside: torch.Tensor) -> None:
        stage, number = map(int, name.split(".")[1:])
        last = len(network.largest.blocks[stage]) - 1
        ends = number + 1 == len(subnet.blocks[stage]) <= last
        key = own_key(ratio, ends=ends)
        if key not in network.own or f"{key} {name}" in fitted:
            return
        fitted.add(f"{key} {name}")
        output = expected[f"blocks.{stage}.{last if ends else number}"]
        if block.has_skip:
            output = output - inputs[name]
        scale, norm = _scale(block.bn3), block.bn3
        start = block.conv_pwl.weight[:, :, 0, 0] * scale[:, None]
        weight, shift = _fit(_positions(inside), _positions(output), start)
        block.conv_pwl.weight.copy_(weight[:, :, None, None])
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(shift + norm.running_mean)
        for part in ("conv_pwl.weight", "bn3.weight", "bn3.bias"):
            network.own[key][parameter_key(f"{name}.{part}")].copy_(block.get_parameter(part))

    for name, block in subnet.named_modules():
        if name.startswith("blocks.") and name.count(".") == 2:
            block.register_forward_pre_hook(lambda _, taken, n=name: before_block(n, taken[0]))
        if isinstance(block, InvertedResidual):
            block.conv_pwl.register_forward_pre_hook(
                lambda _, taken, n=name, b=block: before_projection(n, b, taken[0])
            )
    subnet(pixels)


def _scale(norm: nn.BatchNorm2d) -> torch.Tensor:
    """Factor of a batch norm for each channel."""
    return norm.weight / (norm.running_var + norm.eps).sqrt()


def _positions(maps: torch.Tensor) -> torch.Tensor:
    """Reshapes maps `[N, C, H, W]` to `[N*H*W, C]`."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _fit(
    inside: torch.Tensor, output: torch.Tensor, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `[D, C]` and shift `[D]` of a linear fit, with a ridge penalty towards `start`."""
    means = inside.mean(dim=0), output.mean(dim=0)
    inside = inside - means[0]
    gram = (inside.T @ inside).double()
    ridge = _RIDGE * gram.diagonal().mean()
    with_output = (inside.T @ (output - means[1])).double() + ridge * start.double().T
    gram.diagonal().add_(ridge)
    weight = torch.linalg.solve(gram, with_output).T.float()
    return weight, means[1] - weight @ means[0]
