"""Parsers of the values of options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autopatch.errors import InputError
from autopatch.genes import Choice


def choices_by_field(
    image_size: str | None, patch_size: str | None, bank_size: str | None
) -> dict[str, Sequence[int | None]]:
    """The choices that options give, by field.

    Raises:
        InputError: A text is not a list of numbers.
    """
    choices: dict[str, Sequence[int | None] | None] = {
        "image_size": integers("--image-sizes", image_size),
        "patch_size": integers("--patch-sizes", patch_size),
        "bank_size": bank_sizes("--bank-sizes", bank_size),
    }
    return {name: values for name, values in choices.items() if values is not None}


def with_unit(name: str, text: str | None, units: Mapping[str, float]) -> float | None:
    """Parses a number above 0 with a unit, such as "10ms" or "32MB".

    Args:
        name: The option.
        text: The number and its unit, without a space between them.
        units: What one of each unit is.

    Raises:
        InputError: The text is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
    if match is None or match[2] not in units or not float(match[1]) > 0:
        example, *others = (f"10{unit}" for unit in units)
        raise InputError(
            f"{name} is '{text}', expected a number above 0 with a unit: {example} or "
            f"{' or '.join(others)}"
        )
    return float(match[1]) * units[match[2]]


def share(name: str, value: float | None) -> float | None:
    """Checks a share of 1.

    Raises:
        InputError: It is not between 0 and 1.
    """
    if value is not None and not 0 < value <= 1:
        raise InputError(f"{name} is {value}, expected a number above 0 and at most 1")
    return value


def bank_sizes(name: str, text: str | None) -> tuple[int | None, ...] | None:
    """Parses bank sizes separated by commas; "all" becomes None.

    Raises:
        InputError: The text is something else.
    """
    return _integers(name, text, words={"all": None})


def integers(name: str, text: str | None) -> tuple[int, ...] | None:
    """Parses whole numbers separated by commas.

    Raises:
        InputError: The text is something else.
    """
    found = _integers(name, text, words={})
    return None if found is None else tuple(number for number in found if number is not None)


def _integers(
    name: str, text: str | None, *, words: dict[str, None]
) -> tuple[int | None, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    try:
        return tuple(words[part] if part in words else int(part) for part in parts)
    except ValueError:
        also = "".join(f" or '{word}'" for word in words)
        raise InputError(
            f"{name} is '{text}', expected whole numbers separated by commas{also}"
        ) from None


def names(name: str, text: str | None) -> tuple[str, ...] | None:
    """Parses names separated by commas.

    Raises:
        InputError: A name is empty.
    """
    if text is None:
        return None
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise InputError(f"{name} is '{text}', expected names separated by commas")
    return found


def floats(name: str, text: str | None) -> tuple[float, ...] | None:
    """Parses three numbers separated by commas.

    Raises:
        InputError: The text is something else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} is '{text}', expected numbers such as 0.5,0.5,0.5") from None
    if len(values) != 3:
        raise InputError(f"{name} is '{text}', expected three numbers")
    return values


def choices_by_name(name: str, entries: Sequence[str]) -> dict[str, Choice]:
    """Parses entries such as "kernel_size=7", "smoothing=0.5" or "defects=none".

    Raises:
        InputError: An entry is malformed, or a name is given twice.
    """
    words = {"none": None, "true": True, "false": False}
    values: dict[str, Choice] = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        if not key or not value:
            raise InputError(f"{name} is '{entry}', expected a name and a value: kernel_size=7")
        if key in values:
            raise InputError(f"{name} gives {key} twice, expected one value")
        if re.fullmatch(r"\d+", value, re.ASCII):
            values[key] = int(value)
        elif re.fullmatch(r"\d*\.\d+", value, re.ASCII):
            values[key] = float(value)
        else:
            values[key] = words.get(value.lower(), value)
    return values


def json_object(name: str, text: str | None) -> dict[str, Any] | None:
    """Parses a JSON object.

    Raises:
        InputError: The text is something else.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{name} is '{text}', expected a JSON object")
    return value
