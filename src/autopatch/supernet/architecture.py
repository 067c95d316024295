"""One point of a search space: what a detector's feature extractor and memory bank look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from autopatch.errors import InputError

IMAGE_SIZES = range(32, 1025)
PATCH_SIZES = range(1, 17)


@dataclass(frozen=True)
class Level:
    """One feature level of a backbone.

    Attributes:
        index: Position among all feature levels of the backbone.
        stride: Input pixels per feature-map cell and axis.
        channels: Channels of the feature map.
    """

    index: int
    stride: int
    channels: int


def level_names(levels: Sequence[Level]) -> dict[int, str]:
    """Short names by level index: "stride8" where no two levels share a stride, else "level9"."""
    counts = Counter(level.stride for level in levels)
    unique = all(count == 1 for count in counts.values())
    return {
        level.index: f"stride{level.stride}" if unique else f"level{level.index}"
        for level in levels
    }


@dataclass(frozen=True)
class Architecture:
    """A decoded, valid point of a search space.

    Attributes:
        supernet: Name of the supernet, such as "timm:mobilenetv2_100".
        image_size: Side of the square input in pixels, 32 to 1024.
        levels: Indices of the chosen feature levels, ascending, at least one.
        patch_sizes: Side of the average-pooled patch for each chosen level, 1 to 16.
        bank_size: Patches kept in the memory bank; None keeps all.

    Raises:
        InputError: If a value is of another type or out of its range.
    """

    supernet: str
    image_size: int
    levels: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    bank_size: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.supernet, str) or not self.supernet:
            raise InputError(f"architecture: supernet is {self.supernet!r}, expected a name")
        check_image_size(self.image_size)
        for name in ("levels", "patch_sizes"):
            if not isinstance(getattr(self, name), tuple):
                raise InputError(
                    f"architecture: {name} is {getattr(self, name)!r}, expected a tuple of integers"
                )
        if not self.levels:
            raise InputError("architecture: no level is chosen, expected at least one")
        for level in self.levels:
            check_level(level)
        if list(self.levels) != sorted(set(self.levels)):
            raise InputError(f"architecture: levels {self.levels} are not ascending and distinct")
        if len(self.patch_sizes) != len(self.levels):
            raise InputError(
                f"architecture: {len(self.patch_sizes)} patch sizes for {len(self.levels)} levels"
            )
        for patch_size in self.patch_sizes:
            check_patch_size(patch_size)
        check_bank_size(self.bank_size)

    def to_json(self) -> dict[str, Any]:
        """The architecture as JSON values; `from_json` reads them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Reads what `to_json` wrote.

        Raises:
            InputError: If a field is missing, unknown or out of its range.
        """
        if not isinstance(value, Mapping):
            raise InputError(f"architecture: found {value!r}, expected a JSON object")
        names = {field.name for field in fields(cls)}
        if value.keys() != names:
            raise InputError(
                f"architecture: found the fields {sorted(value)}, expected {sorted(names)}"
            )
        arguments: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in value.items()
        }
        return cls(**arguments)

    def describe(self, levels: Sequence[Level]) -> str:
        """Short text such as "224 px, stride 4 p3 + stride 8 p3, bank 5000".

        Args:
            levels: The levels of the supernet.
        """
        names = level_names(levels)
        parts = []
        for index, patch_size in zip(self.levels, self.patch_sizes, strict=True):
            name = names[index]
            kind = name.rstrip("0123456789")
            parts.append(f"{kind} {name[len(kind) :]} p{patch_size}")
        bank = "all patches" if self.bank_size is None else f"bank {self.bank_size}"
        return f"{self.image_size} px, {' + '.join(parts)}, {bank}"


def is_integer(value: object) -> bool:
    """Whether the value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_image_size(value: object) -> None:
    """Raises InputError unless the value is an image size in pixels."""
    if not is_integer(value) or value not in IMAGE_SIZES:
        raise InputError(
            f"image size is {value!r}, expected an integer from {IMAGE_SIZES[0]} to "
            f"{IMAGE_SIZES[-1]}"
        )


def check_level(value: object) -> None:
    """Raises InputError unless the value is a level index."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"level is {value!r}, expected an integer from 0")


def check_patch_size(value: object) -> None:
    """Raises InputError unless the value is a patch size."""
    if not is_integer(value) or value not in PATCH_SIZES:
        raise InputError(
            f"patch size is {value!r}, expected an integer from {PATCH_SIZES[0]} to "
            f"{PATCH_SIZES[-1]}"
        )


def check_bank_size(value: object) -> None:
    """Raises InputError unless the value is a bank size or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"bank size is {value!r}, expected an integer from 1, or None for all")
