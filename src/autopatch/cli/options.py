"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autopatch.errors import InputError

Data = Annotated[Path, typer.Argument(help="Folder in the MVTec-AD layout.", metavar="DATA")]
RunFolder = Annotated[Path, typer.Argument(help="Folder that `search` made.", metavar="RUN")]
GroupRegex = Annotated[
    str | None,
    typer.Option(help="Images whose names agree in this pattern's first group stay together."),
]
Groups = Annotated[
    Path | None, typer.Option(help="CSV with the columns file,group: images that stay together.")
]
CacheGib = Annotated[float, typer.Option(help="Memory for feature maps that are kept, GiB.")]
Shots = Annotated[int, typer.Option(help="Validation images of each anomaly type.")]
Seed = Annotated[int, typer.Option(help="Of the split, the banks and the optimizer.")]
Reserve = Annotated[
    int, typer.Option(help="Images of each anomaly type that are never in the test part.")
]
Protocol = Annotated[
    str, typer.Option(help="Order of the split: 'random', or 'autopatch' as published.")
]
LegacyOrder = Annotated[
    Path | None,
    typer.Option(
        help="Names of train/good, one a line: their order, instead of the sorted one, with "
        "--protocol autopatch."
    ),
]
BitDepth = Annotated[
    int | None,
    typer.Option(
        help="Bits of the values in images of 16 bits a channel: 8, 10, 12, 14 or 16; the smallest "
        "that holds the images to fit on if absent."
    ),
]
Exif = Annotated[
    str,
    typer.Option(help="'apply' turns images as their EXIF orientation says, 'ignore' does not."),
]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        help="Pixels of a mask above this value are anomalous; if absent, masks are black and one "
        "other value."
    ),
]
BankSizes = Annotated[
    str | None,
    typer.Option(
        "--bank-sizes", "--bank-size", help="Bank sizes to choose from, such as 1000,5000,all."
    ),
]
RecalibrateBn = Annotated[
    bool,
    typer.Option("--recalibrate-bn", help="Give each ofa_mbv3 subnet the good images' statistics."),
]
Device = Annotated[
    str, typer.Option(help="'cpu', or 'cuda' (or 'cuda:1', ...) for everything but reading images.")
]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set, where it was moved.")
]
MovedWeights = Annotated[
    Path | None, typer.Option("--weights", help="Weights of the search, where they were moved.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the search in --out.")]


def bank_sizes(text: str | None) -> tuple[int | None, ...] | None:
    """Sizes of the bank with commas, or "all", which is None.

    Raises:
        InputError: The text is something else.
    """
    return integers("--bank-sizes", text, everything=True)


def floats(name: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers with commas.

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


def integers(
    name: str, text: str | None, *, everything: bool = False
) -> tuple[int | None, ...] | None:
    """Whole numbers with commas; with `everything` also "all", which is None.

    Raises:
        InputError: The text is something else.
    """
    if text is None:
        return None
    try:
        return tuple(
            None if everything and part.strip() == "all" else int(part) for part in text.split(",")
        )
    except ValueError:
        raise InputError(f"{name} is '{text}', expected whole numbers with commas") from None


def choices_by_name(name: str, entries: Sequence[str]) -> dict[str, int | str | bool | None]:
    """Entries such as "kernel_size=7" or "stage_0_block=none".

    Raises:
        InputError: An entry is something else.
    """
    words = {"none": None, "true": True, "false": False}
    values: dict[str, int | str | bool | None] = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        if not key or not value:
            raise InputError(f"{name} is '{entry}', expected a name and a value: kernel_size=7")
        if key in values:
            raise InputError(f"{name} gives {key} twice, expected one value")
        values[key] = int(value) if value.isdecimal() else words.get(value, value)
    return values


def json_object(name: str, text: str | None) -> dict[str, Any] | None:
    """An object in JSON.

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
