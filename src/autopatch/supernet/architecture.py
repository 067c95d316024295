"""One point of a search space: what a detector's feature extractor and memory bank look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from autopatch.errors import InputError

IMAGE_SIZES = range(32, 1025)
PATCH_SIZES = range(1, 17)
KERNEL_SIZES = (3, 5, 7)
EXPAND_RATIOS = (3, 4, 6)
ELASTIC_FIELDS = ("kernel_sizes", "expand_ratios", "depths")


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


@dataclass(frozen=True)
class Architecture:
    """A decoded, valid point of a search space.

    Attributes:
        supernet: Name of the supernet, such as "timm:mobilenetv2_100".
        image_size: Side of the square input in pixels, 32 to 1024.
        levels: Indices of the chosen feature levels, ascending, at least one.
        patch_sizes: Side of the average-pooled patch for each chosen level, 1 to 16.
        bank_size: Patches kept in the memory bank; None keeps all.
        kernel_sizes: Of an elastic supernet: side of the depthwise kernels, 3, 5 or 7, for each
            stage up to that of the deepest level. Empty where the backbone has nothing to choose.
        expand_ratios: Likewise the expand ratio of the blocks, 3, 4 or 6.
        depths: Likewise how many blocks a stage runs, where its level does not say.

    Raises:
        InputError: If a value is of another type or out of its range.
    """

    supernet: str
    image_size: int
    levels: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    bank_size: int | None
    kernel_sizes: tuple[int, ...] = ()
    expand_ratios: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.supernet, str) or not self.supernet:
            raise InputError(f"architecture: supernet is {self.supernet!r}, expected a name")
        check_image_size(self.image_size)
        for name in ("levels", "patch_sizes", *ELASTIC_FIELDS):
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
        # An elastic supernet has expand ratios, and kernel sizes or depths beside them.
        counts = {len(self.kernel_sizes), len(self.depths)} - {0}
        if counts != {len(self.expand_ratios)} - {0}:
            raise InputError(
                f"architecture: {len(self.kernel_sizes)} kernel sizes and {len(self.depths)} "
                f"depths for {len(self.expand_ratios)} expand ratios, expected one of each for a "
                "stage"
            )
        for kernel_size in self.kernel_sizes:
            check_kernel_size(kernel_size)
        for expand_ratio in self.expand_ratios:
            check_expand_ratio(expand_ratio)
        for depth in self.depths:
            check_depth(depth)

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
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= value.keys() <= names:
            raise InputError(
                f"architecture: found the fields {sorted(value)}, expected {sorted(needed)} and, "
                f"for an elastic supernet, {sorted(names - needed)}"
            )
        arguments: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in value.items()
        }
        return cls(**arguments)


def describe_bank(architecture: Architecture) -> str:
    """The bank in words."""
    size = architecture.bank_size
    return "all patches" if size is None else f"bank {size}"


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


def check_kernel_size(value: object) -> None:
    """Raises InputError unless the value is the side of an elastic kernel."""
    if not is_integer(value) or value not in KERNEL_SIZES:
        raise InputError(f"kernel size is {value!r}, expected one of {KERNEL_SIZES}")


def check_expand_ratio(value: object) -> None:
    """Raises InputError unless the value is an expand ratio."""
    if not is_integer(value) or value not in EXPAND_RATIOS:
        raise InputError(f"expand ratio is {value!r}, expected one of {EXPAND_RATIOS}")


def check_depth(value: object) -> None:
    """Raises InputError unless the value is a number of blocks."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"depth is {value!r}, expected an integer from 1")


def check_bank_size(value: object) -> None:
    """Raises InputError unless the value is a bank size or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"bank size is {value!r}, expected an integer from 1, or None for all")
