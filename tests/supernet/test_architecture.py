from __future__ import annotations

import json
from typing import Any

import pytest

from autopatch.errors import InputError
from autopatch.supernet import Architecture

VALID: dict[str, Any] = {
    "supernet": "timm:resnet18",
    "image_size": 224,
    "levels": (1, 3),
    "patch_sizes": (3, 1),
    "bank_size": 5000,
}


@pytest.mark.parametrize("bank_size", [1, 5000, None])
def test_json_round_trip(bank_size: int | None) -> None:
    architecture = Architecture(**{**VALID, "bank_size": bank_size})
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("supernet", ""),
        ("supernet", 3),
        ("image_size", 31),
        ("image_size", 1025),
        ("image_size", True),
        ("image_size", 224.0),
        ("levels", ()),
        ("levels", [1, 3]),
        ("levels", (3, 1)),
        ("levels", (1, 1)),
        ("levels", (-1, 1)),
        ("levels", (1, 2, 3)),
        ("patch_sizes", (3,)),
        ("patch_sizes", (0, 1)),
        ("patch_sizes", (3, 17)),
        ("patch_sizes", (3, True)),
        ("bank_size", 0),
        ("bank_size", "all"),
    ],
)
def test_invalid_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Architecture(**{**VALID, field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**VALID, "more": 1},
        {k: v for k, v in VALID.items() if k != "levels"},
        {**VALID, "levels": "13"},
        {**VALID, "levels": [1, "3"]},
    ],
)
def test_from_json_refuses_foreign_values(value: Any) -> None:
    with pytest.raises(InputError):
        Architecture.from_json(value)
