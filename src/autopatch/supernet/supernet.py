"""What the detector and the search ask of a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autopatch.supernet.architecture import Architecture, Level
from autopatch.supernet.published_flops import PublishedCost
from autopatch.supernet.space import SearchSpace
from autopatch.supernet.subnet import Subnet


class Supernet(Protocol):
    """Weights that serve many architectures.

    Attributes:
        name: "timm:<model>", or that of Once-for-All networks.
        provenance: One line that says where the weights come from.
        random_features: Whether the weights are random.
        recalibrate_batch_norm: Whether a subnet's batch norm gets the statistics of the good images
            before it is used.
        shared_levels: Levels whose maps are the same for all architectures of one image size, so
            that they are worth keeping together; empty where architectures differ in more.
    """

    name: str
    provenance: str
    random_features: bool
    recalibrate_batch_norm: bool
    shared_levels: tuple[int, ...]

    def get_active_subnet(self, architecture: Architecture) -> Subnet:
        """The static module of an architecture."""

    def chosen_levels(self, architecture: Architecture) -> tuple[Level, ...]:
        """The levels of an architecture."""

    def grid(self, architecture: Architecture) -> tuple[int, int]:
        """Patch positions (H, W) of an image: those of the largest chosen feature map."""

    def flops(self, architecture: Architecture) -> int:
        """FLOPs of a subnet for one image, two a multiply-add."""

    def published_cost(self, architecture: Architecture) -> PublishedCost | None:
        """Cost of a subnet by the rule of the published method, None where that has none."""

    def search_space(
        self,
        *,
        image_sizes: Sequence[int] = ...,
        patch_sizes: Sequence[int] = ...,
        bank_sizes: Sequence[int | None] = ...,
    ) -> SearchSpace:
        """What this project searches by default, with other choices where they are given."""

    def patchcore(self, *, bank_size: int | None) -> Architecture | None:
        """PatchCore's usual choice: levels of stride 8 and 16, patch size 3, 224 px; None if there
        are no such levels."""

    def describe(self, architecture: Architecture) -> str:
        """An architecture in words."""
