"""Random weights that depend only on a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class SeededWeights(TorchDispatchMode):
    """A context for building networks with random weights from a seed.

    The weights are the same as after `torch.manual_seed(seed)`, but torch's global generators are
    neither used nor changed, on any device or in any thread.

    Args:
        seed: Seed of the weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        device = _device(args, given)
        draws = torch.Tag.nondeterministic_seeded in func.tags and device.type != "meta"
        if not draws or given.get("generator") is not None:
            return func(*args, **given)
        return _with_generator(func)(*args, **given, generator=self._generator(device))

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type not in self._generators:
            self._generators[device.type] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device.type]


def _device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device:
    """The device on which an operator draws random numbers."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    return torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))


def _with_generator(func: Any) -> Callable[..., Any]:
    """The overload of a random operator that takes a generator."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func  # type: ignore[no-any-return]
    name = func._overloadname
    name = "generator" if name == "default" else f"{name}_generator"
    if name in func.overloadpacket.overloads():
        return getattr(func.overloadpacket, name)  # type: ignore[no-any-return]
    raise NotImplementedError(f"{func} takes no generator, so its numbers cannot be seeded")
