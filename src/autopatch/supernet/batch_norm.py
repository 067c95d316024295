"""Folds batch norms into the convolutions before them."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Sequence

import torch
from timm.layers import BatchNormAct2d, Conv2dSame  # type: ignore[attr-defined]
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

# Exact types: subclasses may compute their weights in each call.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
"""Types of batch norms, without their subclasses."""

_TOLERANCE = 1e-3  # relative to the largest value of a map; rounding causes about 1e-6


Pair = tuple[str, str]
"""Names of a convolution and of the batch norm that follows it."""


def fold_found(module: nn.Module, image: torch.Tensor) -> tuple[nn.Module, list[Pair]]:
    """Folds the batch norms that can be folded: their input is the output of a convolution, and
    both run once per call.

    The module is run to find them. (Symbolic tracing would work too, but would block calls of
    modules in other threads.) If the folded module computes different maps, because the output of
    a convolution is also used elsewhere, nothing is folded and a warning is given.

    Args:
        module: A module in eval mode that computes a list of feature maps.
        image: A batch of random images to run it on.

    Returns:
        What `fold_batch_norm` makes of the pairs, and the pairs. The module itself, if there are
        none.
    """
    if not any(type(part) in BATCH_NORMS for part in module.modules()):
        return module, []
    copied = _sharing_copy(module)
    with torch.inference_mode(False), torch.no_grad():  # weights may be used in either mode
        pairs, maps = _run(copied, image)
        _fold(copied, pairs)
        for found, expected in zip(copied(image), maps, strict=True):
            if (found - expected).abs().max() > _TOLERANCE * expected.abs().max():
                warnings.warn(
                    f"{type(module).__name__} keeps its batch norm and runs about 15 % slower: the "
                    "output of a convolution is also used outside the batch norm",
                    stacklevel=2,
                )
                return module, []
    return copied, pairs


def fold_batch_norm(module: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """A module with the same results as `module` in eval mode, but without separate batch norms.

    Each batch norm is folded into a copy of its convolution (Jacob et al., CVPR 2018, section 3.2).
    All other weights are shared.

    Args:
        module: A network.
        pairs: The pairs to fold, such as those that `fold_found` has found in such a network.

    Raises:
        ValueError: A pair does not name a convolution and a batch norm of the module.
    """
    copied = _sharing_copy(module)
    with torch.inference_mode(False), torch.no_grad():
        _fold(copied, pairs)
    return copied


def _fold(module: nn.Module, pairs: Sequence[Pair]) -> None:
    """Replaces the convolutions and batch norms of the module itself."""
    parts = dict(module.named_modules())
    for before, behind in pairs:
        convolution, batch_norm = parts.get(before), parts.get(behind)
        if not isinstance(convolution, nn.Conv2d) or not isinstance(batch_norm, nn.BatchNorm2d):
            raise ValueError(f"{before} and {behind} are not a convolution and a batch norm")
        module.set_submodule(before, fuse_conv_bn_eval(convolution, batch_norm))
        module.set_submodule(behind, getattr(batch_norm, "act", nn.Identity()))


def _sharing_copy(module: nn.Module) -> nn.Module:
    """A copy of the modules that shares their tensors. Hooks on it do not affect other threads."""
    shared = {id(value): value for value in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _run(module: nn.Module, image: torch.Tensor) -> tuple[list[Pair], Sequence[torch.Tensor]]:
    """Pairs of a convolution and the batch norm that follows it, where both run once, and the
    feature maps."""
    calls: Counter[str] = Counter()
    outputs: dict[str, torch.Tensor] = {}
    pairs: list[Pair] = []
    handles = []

    def on_convolution(name: str, output: torch.Tensor) -> None:
        calls[name] += 1
        outputs[name] = output

    def on_batch_norm(name: str, taken: torch.Tensor) -> None:
        calls[name] += 1
        pairs.extend((before, name) for before, output in outputs.items() if output is taken)

    for name, part in module.named_modules():
        if type(part) in _CONVOLUTIONS:
            handles.append(
                part.register_forward_hook(
                    lambda _part, _inputs, output, name=name: on_convolution(name, output)
                )
            )
        elif type(part) in BATCH_NORMS:
            handles.append(
                part.register_forward_pre_hook(
                    lambda _part, inputs, name=name: on_batch_norm(name, inputs[0])
                )
            )
    maps: Sequence[torch.Tensor] = module(image)
    for handle in handles:
        handle.remove()
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)], maps
