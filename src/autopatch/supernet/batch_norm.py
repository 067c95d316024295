"""Batch norm folded into the convolution before it."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import cast

from timm.layers import BatchNormAct2d, Conv2dSame  # type: ignore[attr-defined]
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from autopatch.errors import one_line

# Exact types: classes derived from them may compute their weights when they run.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A module that gives what `module`, in eval mode, gives, in fewer passes over the maps.

    Every batch norm behind a convolution whose output nothing else takes is folded into a copy of
    that convolution (Jacob et al., CVPR 2018, section 3.2); all else is shared with `module`. A
    module that cannot be traced is returned as it is, with a warning.
    """
    if not any(type(part) in _BATCH_NORMS for part in module.modules()):
        return module
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    # Models refuse to be traced with errors of many classes.
    except Exception as error:
        warnings.warn(
            f"{type(module).__name__} runs with its batch norm, some 15 % slower than without: "
            f"it cannot be traced ({one_line(error)})",
            stacklevel=2,
        )
        return module
    folded = fx.GraphModule(tracer.root, graph)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if not (isinstance(before, fx.Node) and node.op == before.op == "call_module"):
            continue
        names = str(before.target), str(node.target)
        convolution, batch_norm = map(folded.get_submodule, names)
        if (
            type(convolution) in _CONVOLUTIONS
            and type(batch_norm) in _BATCH_NORMS
            and len(before.users) == calls[before.target] == calls[node.target] == 1
        ):
            fused = fuse_conv_bn_eval(
                cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, batch_norm)
            )
            folded.set_submodule(names[0], fused)
            folded.set_submodule(names[1], getattr(batch_norm, "act", nn.Identity()))
    return folded


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layer = isinstance(m, nn.Conv2d | nn.BatchNorm2d)
        return layer or super().is_leaf_module(m, module_qualified_name)
