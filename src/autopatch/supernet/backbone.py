"""The backbone of an architecture: network, feature levels and setting."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autopatch.errors import InputError
from autopatch.genes import Setting, Settings, is_integer


@dataclass(frozen=True)
class Level:
    """One feature level of a backbone.

    Attributes:
        index: Position among all feature levels of the backbone.
        stride: Input pixels per feature-map cell, along each axis.
        channels: Number of channels of the feature map.
    """

    index: int
    stride: int
    channels: int


@dataclass(frozen=True)
class Backbone:
    """A subnet of a supernet. Only the network's family interprets the setting.

    Attributes:
        network: Name of the network, such as "timm:mobilenetv2_100".
        levels: Indices of the selected feature levels, ascending, at least one.
        setting: The family's other choices by name: one value, or one for each stage up to the
            stage of the deepest level.

    Raises:
        InputError: The network has no name, or the levels are not ascending integers.
    """

    network: str
    levels: tuple[int, ...]
    setting: Mapping[str, Setting] = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if not isinstance(self.network, str) or not self.network:
            raise InputError(f"backbone: network is {self.network!r}, expected a name")
        if not isinstance(self.levels, tuple):
            raise InputError(f"backbone: levels are {self.levels!r}, expected a tuple of integers")
        if not self.levels:
            raise InputError("backbone: no level is chosen, expected at least one")
        for level in self.levels:
            check_level(level)
        if list(self.levels) != sorted(set(self.levels)):
            raise InputError(f"backbone: levels {self.levels} are not ascending and distinct")
        if not isinstance(self.setting, Mapping):
            raise InputError(f"backbone: setting is {self.setting!r}, expected values by name")
        object.__setattr__(self, "setting", Settings(self.setting))

    def to_json(self) -> dict[str, Any]:
        """The backbone as JSON values."""
        return {
            "network": self.network,
            "levels": list(self.levels),
            "setting": Settings(self.setting).to_json(),
        }


@dataclass(frozen=True)
class Segment:
    """Some successive layers of a subnet. The segments of a subnet are a chain: each starts from
    the last map of the one before.

    Attributes:
        levels: Indices of the levels whose maps it gives, ascending, at least one.
        key: Sets its layers apart from those of other subnets of the network. Segments give the
            same maps, bit for bit, if their keys and those of all segments before are equal.
        reusable: Whether its maps may serve many other subnets, so that they are worth keeping even
            if their levels are not selected.
    """

    levels: tuple[int, ...]
    key: Hashable
    reusable: bool = True


def check_level(value: object) -> None:
    """Raises InputError unless the value is a level index."""
    if not is_integer(value) or value < 0:
        raise InputError(f"level is {value!r}, expected an integer from 0")
