"""The input of an architecture: resizes images for the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from autopatch.data import Square
from autopatch.errors import InputError
from autopatch.genes import Choice, Gene, is_integer

IMAGE_SIZES = range(32, 1025)
"""Allowed image sizes, in pixels."""

DEFAULT_IMAGE_SIZES = (160, 224, 288, 320, 448)


@dataclass(frozen=True)
class Input:
    """How images are resized.

    Attributes:
        size: Side of the square that images are resized to, in pixels, 32 to 1024.

    Raises:
        InputError: A value is out of range.
    """

    size: int = 224

    def __post_init__(self) -> None:
        self.check("image_size", self.size)

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The pixels `[size, size, 3]` of an RGB image."""
        return Square(self.size).pixels(image)

    @staticmethod
    def genes(choices: Mapping[str, Sequence[Choice]]) -> list[Gene]:
        """The input's genes.

        Args:
            choices: Choices by field; other fields have their default choices.
        """
        sizes = tuple(choices.get("image_size", DEFAULT_IMAGE_SIZES))
        return [Gene("image_size", sizes, "input", "image_size")]

    @staticmethod
    def check(field: str, value: Choice) -> None:
        """Raises InputError unless the input has the field and the field may have the value."""
        if field != "image_size":
            raise InputError(f"the input has no field {field!r}, expected 'image_size'")
        if not is_integer(value) or value not in IMAGE_SIZES:
            raise InputError(
                f"image size is {value!r}, expected an integer from {IMAGE_SIZES[0]} to "
                f"{IMAGE_SIZES[-1]}"
            )

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> Input:
        """Makes an input from gene values by field."""
        return cls(size=values["image_size"])

    def encode(self) -> dict[str, Choice]:
        """Gene values by field, for `decode`."""
        return {"image_size": self.size}
