"""The latency of backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autopatch.search.latency.component import Case, Key
from autopatch.search.latency.curves import entry, interpolated, require_within
from autopatch.search.latency.levels import covering_backbones
from autopatch.search.latency.timing import Work
from autopatch.supernet import Subnet, Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace


class BackboneStages:
    """The stages of the backbone, with the normalization of the image.

    Each stage is timed inside networks of which each covers some of the stages' settings. The time
    of a backbone is the sum over its stages (`Supernet.stages`).
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each network and image size; its parts are the stages."""
        works: list[tuple[Key, Work]] = []
        for backbone in bench.covering:
            stages = bench.supernet.stages(backbone)
            subnet = bench.subnet(backbone, max(bench.sizes))
            works += [((*stages, str(size)), _Staged(subnet, bench, size)) for size in bench.sizes]
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by stage and image size."""
        found: dict[str, dict[str, list[float]]] = {}
        for (*stages, size), parts in timed:
            for stage, seconds in zip(stages, parts, strict=True):
                found.setdefault(stage, {}).setdefault(size, []).append(seconds)
        return {
            stage: {size: float(np.median(each)) for size, each in of_size.items()}
            for stage, of_size in found.items()
        }

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        sizes = {int(size) for of_size in values.values() for size in of_size}
        require_within("image size", sizes, space.choices("input", "image_size"))
        for backbone in covering_backbones(supernet, space):
            for stage in supernet.stages(backbone):
                entry(values, stage, "stage")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        total = 0.0
        for stage in case.supernet.stages(case.architecture.backbone):
            curve = {int(size): seconds for size, seconds in entry(values, stage, "stage").items()}
            require_within("image size", curve, [case.size])
            total += interpolated(curve, case.size)
        return total


COMPONENT = BackboneStages()


class _Staged:
    """A forward pass of a subnet; tells the seconds of each of its stages."""

    def __init__(self, subnet: Subnet, bench: Bench, size: int) -> None:
        self._subnet = subnet
        self._clock = bench.clock
        self._pixels = bench.pixels(size)
        self._marks: dict[int, float] = {}
        self._ends = self._find_ends()

    def _find_ends(self) -> list[nn.Module | None]:
        """The module that computes each map, if it is one module."""
        outputs: list[tuple[torch.Tensor, nn.Module]] = []
        handles = [
            part.register_forward_hook(lambda part, _, output: outputs.append((output, part)))
            for part in self._subnet.network.modules()
        ]
        with torch.inference_mode():
            maps = self._subnet.network(self._subnet.normalize(self._pixels))
        for handle in handles:
            handle.remove()
        ends = []
        for one in maps:
            makers = [part for output, part in outputs if output is one]
            ends.append(makers[0] if makers else None)
        return ends

    def __call__(self) -> list[float]:
        marks: dict[int, float] = {}
        handles = [
            part.register_forward_hook(
                lambda *_, number=number: marks.update({number: self._clock.now()})
            )
            for number, part in enumerate(self._ends)
            if part is not None
        ]
        started = self._clock.now()
        with torch.inference_mode():
            self._subnet(self._subnet.normalize(self._pixels))
        marks[len(self._ends) - 1] = self._clock.now()
        for handle in handles:
            handle.remove()
        seconds: list[float] = []
        before, done = started, 0
        for number in range(len(self._ends)):
            if number in marks:  # stages whose end is unknown share the time up to the next end
                share = (marks[number] - before) / (number + 1 - done)
                seconds += [share] * (number + 1 - done)
                before, done = marks[number], number + 1
        return seconds
