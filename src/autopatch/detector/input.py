"""The input of an architecture: how an image becomes pixels for the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopatch.genes import Choice, Gene
from autopatch.supernet import check_image_size

IMAGE_SIZES = (160, 224, 288)
"""What a search chooses from by default, in pixels."""


@dataclass(frozen=True)
class Input:
    """How an image is read.

    Attributes:
        size: Side of the square that the image is resized to, in pixels, 32 to 1024.

    Raises:
        InputError: A value is out of range.
    """

    size: int = 224

    def __post_init__(self) -> None:
        check_image_size(self.size)

    @staticmethod
    def genes(choices: Mapping[str, Sequence[Choice]]) -> list[Gene]:
        """The input's genes.

        Args:
            choices: Choices by field, where they are not the default ones.
        """
        sizes = tuple(choices.get("image_size", IMAGE_SIZES))
        return [Gene("image_size", sizes, "input", "image_size")]

    @staticmethod
    def check(field: str, value: Choice) -> None:
        """Raises InputError unless a field can have the value."""
        check_image_size(value)

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> Input:
        """The input of gene values by field."""
        return cls(size=values["image_size"])

    def encode(self) -> dict[str, Choice]:
        """Gene values by field; `decode` reads them back."""
        return {"image_size": self.size}
