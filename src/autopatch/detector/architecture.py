"""One point of a search space: input, backbone and head of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autopatch.detector.head import Head
from autopatch.detector.input import Input
from autopatch.errors import InputError
from autopatch.genes import Settings
from autopatch.supernet import Backbone, Supernet

_VERSION = 2


@dataclass(frozen=True)
class Architecture:
    """The architecture of a detector.

    Attributes:
        input: How images are resized.
        backbone: The subnet, and the levels whose feature maps are used.
        head: How feature maps become anomaly maps.

    Raises:
        InputError: The number of patch sizes in the head differs from the number of levels.
    """

    input: Input
    backbone: Backbone
    head: Head

    def __post_init__(self) -> None:
        sizes, levels = len(self.head.patch_sizes), len(self.backbone.levels)
        if sizes != levels:
            raise InputError(f"architecture: {sizes} patch sizes for {levels} levels")

    def describe(self, supernet: Supernet) -> str:
        """A short description such as "224 px, stride 4 p3 + stride 8 p3, bank 5000"."""
        words = supernet.describe(self.backbone)
        head = self.head.describe(supernet.level_names(self.backbone))
        return ", ".join([f"{self.input.size} px", *([words] if words else []), head])

    def to_json(self) -> dict[str, Any]:
        """The architecture as JSON values, for `from_json`."""
        return {
            "version": _VERSION,
            "input": asdict(self.input),
            "backbone": self.backbone.to_json(),
            "head": self.head.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Reads the document of `to_json`.

        Raises:
            InputError: The document comes from an earlier version, or a field is missing, unknown
                or out of range.
        """
        if not isinstance(value, Mapping):
            raise InputError(f"architecture: found {value!r}, expected a JSON object")
        if "version" not in value and "supernet" in value:
            raise InputError(
                "architecture: written by an earlier version of autopatch; search or fit again, or "
                "write it anew with input, backbone and head"
            )
        if value.get("version") != _VERSION:
            raise InputError(
                f"architecture: version is {value.get('version')!r}, expected {_VERSION}"
            )
        parts = {name: value.get(name) for name in ("input", "backbone", "head")}
        for name, part in parts.items():
            if not isinstance(part, Mapping):
                raise InputError(f"architecture: {name} is {part!r}, expected a JSON object")
        unknown = value.keys() - parts.keys() - {"version"}
        if unknown:
            raise InputError(f"architecture: {min(unknown)!r} is unknown, expected {list(parts)}")
        return cls(
            input=_part("input", Input, parts["input"]),
            backbone=_part("backbone", Backbone, parts["backbone"]),
            head=_part("head", Head, parts["head"]),
        )


def _part(name: str, part: type[Any], value: Any) -> Any:
    arguments = {
        key: Settings(v) if isinstance(v, Mapping) else tuple(v) if isinstance(v, list) else v
        for key, v in value.items()
    }
    try:
        return part(**arguments)
    except TypeError:
        fields = list(part.__dataclass_fields__)
        raise InputError(
            f"architecture: {name} has the fields {sorted(value)}, expected {fields}"
        ) from None
