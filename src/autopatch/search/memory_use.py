"""The memory of a loaded detector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

if TYPE_CHECKING:
    from autopatch.detector import FittedHead
    from autopatch.supernet import Backbone, Supernet

_of_backbones: WeakKeyDictionary[Supernet, dict[tuple[Backbone, int], int]] = WeakKeyDictionary()


def loaded_bytes(supernet: Supernet, backbone: Backbone, size: int, head: FittedHead) -> int:
    """Bytes of a loaded detector: weights of the backbone with its batch norm folded, memory bank
    and its screen, bank of known defects, and steps.

    The images that set its threshold, and what it needs while it runs, are not counted.

    Args:
        supernet: The supernet.
        backbone: The backbone.
        size: Image size in pixels.
        head: The fitted head.
    """
    modules = [getattr(head, f.name) for f in fields(head)]
    of_head = _bytes(
        tensor
        for module in modules
        if isinstance(module, nn.Module)
        for tensor in (*module.parameters(), *module.buffers())
    )
    return of_head + _backbone_bytes(supernet, backbone, size)


def _backbone_bytes(supernet: Supernet, backbone: Backbone, size: int) -> int:
    known = _of_backbones.setdefault(supernet, {})
    # The layers up to the deepest level run in any case.
    key = replace(backbone, levels=backbone.levels[-1:]), size
    if key not in known:
        subnet = supernet.get_active_subnet(key[0])
        subnet.fold(size)
        known[key] = _bytes((*subnet.parameters(), *subnet.buffers()))
    return known[key]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors; a tensor that occurs several times counts once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
