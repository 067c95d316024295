"""The parts of a detector's latency, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from autopatch.detector import Architecture, FittedHead
from autopatch.kernels import SearchWork, least_search_work, search_work
from autopatch.registry import Registry
from autopatch.search.latency.timing import Work
from autopatch.supernet import Level, Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace


Key = tuple[Any, ...]
"""What a work is, such as set of levels, patch size and image size."""

_QUERIES = 512  # whose searches are counted


@dataclass(frozen=True)
class Case:
    """A candidate whose latency is read.

    Attributes:
        supernet: Its supernet.
        architecture: Its architecture.
        searches: What the search in each bank does for one patch, the memory bank first.
        batch: Images per batch.
    """

    supernet: Supernet
    architecture: Architecture
    searches: tuple[SearchWork, ...]
    batch: int = 1

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        architecture: Architecture,
        head: FittedHead,
        maps: Sequence[torch.Tensor],
        *,
        counted: bool,
    ) -> Case:
        """The case of a fitted candidate.

        Args:
            supernet: Its supernet.
            architecture: Its architecture.
            head: Its head.
            maps: Feature maps of images that are not in its banks, good ones if possible; one
                tensor per level. Up to 512 patches are searched for.
            counted: Whether to count what the searches do, see `LatencyTable.needs_counts`. If not,
                `searches` has the least.
        """
        banks = [(head.memory.index, min(head.memory.neighbors, len(head.memory)))]
        if len(head.defects):
            banks.append((head.defects.index, 1))
        if not counted:
            shapes = [index.bank.shape for index, _ in banks]
            return cls(supernet, architecture, tuple(least_search_work(*each) for each in shapes))
        queries = _some_patches(head, maps)
        works = tuple(search_work(queries, index, k) for index, k in banks)
        return cls(supernet, architecture, works)

    @property
    def size(self) -> int:
        """Image size in pixels."""
        return self.architecture.input.size

    @property
    def levels(self) -> tuple[Level, ...]:
        """The selected levels."""
        return self.supernet.levels(self.architecture.backbone)

    @property
    def queries(self) -> int:
        """Patches per batch."""
        grid = self.supernet.grid(self.architecture.backbone, self.size)
        return self.batch * math.prod(grid)


class Component(Protocol):
    """A part of a detector's latency."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """What to time, each with a key of its own."""
        ...

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """What `seconds` needs, as JSON values.

        Args:
            timed: The keys of `works`, and the median seconds of the parts of each work.
        """
        ...

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """Raises InputError unless the values cover a search space."""
        ...

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """Seconds per batch of a candidate.

        Raises:
            InputError: The values do not cover it.
        """
        ...


COMPONENTS: Registry[Component] = Registry(
    "component of the latency",
    {
        "backbone": "autopatch.search.latency.backbone:COMPONENT",
        "aggregation": "autopatch.search.latency.aggregation:COMPONENT",
        "nearest_neighbors": "autopatch.search.latency.neighbors:COMPONENT",
        "steps": "autopatch.search.latency.steps:COMPONENT",
        "upsampling": "autopatch.search.latency.upsampling:COMPONENT",
    },
)
"""Components by name. A candidate's latency is the sum over all that are in a table."""


def whole(run: Callable[[], object]) -> Work:
    """A work that is timed as a whole."""

    def work() -> None:
        with torch.inference_mode():
            run()

    return work


def _some_patches(head: FittedHead, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Patch features `[Q, D]` of runs of neighboring patches of each image."""
    images = len(maps[0])
    found = []
    for image in range(images):
        patches: torch.Tensor = head.aggregator([m[image : image + 1] for m in maps])
        found.append(patches[some_queries(len(patches), max(_QUERIES // images, 1))])
    return torch.cat(found)


def some_queries(count: int, wanted: int) -> torch.Tensor:
    """Indices of about `wanted` of `count` patches: up to eight runs of neighbors, evenly spaced.

    Patches that are searched together are neighbors in an image.
    """
    runs = min(8, max(wanted // 8, 1))
    length = min(max(wanted // runs, 1), count)
    starts = torch.linspace(0, count - length, runs, device="cpu").long()
    found: torch.Tensor = (starts[:, None] + torch.arange(length, device="cpu")).unique()
    return found
