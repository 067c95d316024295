from __future__ import annotations

import json
from typing import Any

import pytest

from autopatch.detector import Architecture, Head, Input
from autopatch.errors import InputError
from autopatch.supernet import Backbone

PARTS: dict[str, dict[str, Any]] = {
    "input": {"size": 224},
    "backbone": {
        "network": "timm:resnet18",
        "levels": (1, 3),
        "setting": {"depth": 2, "expand_ratio": (3, 6)},
    },
    "head": {"patch_sizes": (3, 1), "bank_size": 5000},
}


def made(part: str = "input", **fields: Any) -> Architecture:
    values = PARTS | {part: PARTS[part] | fields}
    return Architecture(
        Input(**values["input"]), Backbone(**values["backbone"]), Head(**values["head"])
    )


@pytest.mark.parametrize("bank_size", [1, 5000, None])
def test_json_round_trip(bank_size: int | None) -> None:
    architecture = made("head", bank_size=bank_size)
    read = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert read == architecture
    assert hash(read) == hash(architecture)


def test_json() -> None:
    assert made().to_json() == {
        "version": 2,
        "input": {"size": 224},
        "backbone": {
            "network": "timm:resnet18",
            "levels": [1, 3],
            "setting": {"depth": 2, "expand_ratio": [3, 6]},
        },
        "head": {"patch_sizes": [3, 1], "bank_size": 5000, "steps": {}},
    }


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("backbone", "network", ""),
        ("backbone", "network", 3),
        ("input", "size", 31),
        ("input", "size", 1025),
        ("input", "size", True),
        ("input", "size", 224.0),
        ("backbone", "levels", ()),
        ("backbone", "levels", [1, 3]),
        ("backbone", "levels", (3, 1)),
        ("backbone", "levels", (1, 1)),
        ("backbone", "levels", (-1, 1)),
        ("backbone", "levels", (1, 2, 3)),
        ("backbone", "setting", ("depth", 2)),
        ("head", "patch_sizes", (3,)),
        ("head", "patch_sizes", [3, 1]),
        ("head", "patch_sizes", (0, 1)),
        ("head", "patch_sizes", (3, 17)),
        ("head", "patch_sizes", (3, True)),
        ("head", "bank_size", 0),
        ("head", "bank_size", "all"),
        ("head", "steps", {"polish": 1}),
        ("head", "steps", None),
    ],
)
def test_invalid_values_are_refused(part: str, field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        made(part, **{field: value})
    assert "\n" not in str(caught.value)


VALID: dict[str, Any] = {
    "version": 2,
    "input": {"size": 224},
    "backbone": {"network": "timm:resnet18", "levels": [1, 3], "setting": {}},
    "head": {"patch_sizes": [3, 1], "bank_size": 5000, "steps": {}},
}


def with_part(part: str, **fields: Any) -> dict[str, Any]:
    return VALID | {part: VALID[part] | fields}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        VALID | {"version": 3},
        VALID | {"more": 1},
        VALID | {"head": [3, 1]},
        {name: part for name, part in VALID.items() if name != "input"},
        VALID | {"head": {"bank_size": 5000}},
        with_part("head", more=1),
        with_part("backbone", levels="13"),
        with_part("backbone", levels=[1, "3"]),
        with_part("backbone", setting=[1]),
        with_part("input", size="224"),
    ],
)
def test_from_json_refuses_foreign_values(value: Any) -> None:
    assert Architecture.from_json(VALID) == made("backbone", setting={})
    with pytest.raises(InputError) as caught:
        Architecture.from_json(value)
    assert "\n" not in str(caught.value)


def test_from_json_refuses_an_earlier_version() -> None:
    earlier = {
        "supernet": "timm:resnet18",
        "image_size": 224,
        "levels": [1, 3],
        "patch_sizes": [3, 1],
        "bank_size": 5000,
        "kernel_sizes": [],
        "expand_ratios": [],
    }
    with pytest.raises(InputError, match="written by an earlier version of autopatch"):
        Architecture.from_json(earlier)
