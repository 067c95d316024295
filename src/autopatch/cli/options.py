"""Options that several commands share, and parsers of their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autopatch.errors import InputError

Data = Annotated[Path, typer.Argument(help="Folder in the MVTec-AD layout.", metavar="DATA")]
RunFolder = Annotated[Path, typer.Argument(help="Folder written by `search`.", metavar="RUN")]
GroupRegex = Annotated[
    str | None,
    typer.Option(
        help="Regular expression for file names; images with the same first match group stay "
        "together in the split."
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with the columns file,group; images of a group stay together in the split."
    ),
]
CacheGib = Annotated[
    float, typer.Option(help="Memory for images and feature maps that candidates share, in GiB.")
]
Shots = Annotated[int, typer.Option(help="Number of validation images of each anomaly type.")]
Seed = Annotated[int, typer.Option(help="Seed of all random choices.")]
SplitSeed = Annotated[int | None, typer.Option(help="Seed of the split; default: --seed.")]
Reserve = Annotated[
    int, typer.Option(help="Number of images of each anomaly type that are never in the test set.")
]
Protocol = Annotated[
    str, typer.Option(help="How to split the images: 'random', or 'autopatch' as published.")
]
LegacyOrder = Annotated[
    Path | None,
    typer.Option(
        help="Text file with the file names of train/good in order, one per line, for --protocol "
        "autopatch; default: sorted by name."
    ),
]
BitDepth = Annotated[
    int | None,
    typer.Option(
        help="Bits per value of 16-bit images: 8, 10, 12, 14 or 16; default: the smallest depth "
        "that holds the values of the fit images."
    ),
]
Exif = Annotated[
    str,
    typer.Option(
        help="'apply' rotates images and masks by their EXIF orientation, 'ignore' does not."
    ),
]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        help="Mask pixels above this value are anomalous; by default, masks must hold only black "
        "and one other value."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Channel means such as 0.5,0.5,0.5; needed if the weights file has none."),
]
Std = Annotated[
    str | None,
    typer.Option(
        help="Channel standard deviations such as 0.5,0.5,0.5; needed if the weights file has none."
    ),
]
TimmKwargs = Annotated[
    str | None,
    typer.Option(
        help="Arguments of timm.create_model as a JSON object; needed if the weights file has none."
    ),
]
RecalibrateBn = Annotated[
    bool,
    typer.Option(
        "--recalibrate-bn", help="Recompute batch-norm statistics of ofa_mbv3 on the good images."
    ),
]
Device = Annotated[
    str, typer.Option(help="'cpu', 'cuda' or 'cuda:<number>'; images are always read on the CPU.")
]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set, if it has moved.")
]
MovedWeights = Annotated[
    Path | None, typer.Option("--weights", help="Weights of the search, if they have moved.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the search in --out.")]
NoLock = Annotated[
    bool,
    typer.Option(
        "--no-lock",
        help="Do not lock the run folder, for file systems without locks. Make sure that only one "
        "process searches in the folder.",
    ),
]


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


def choices_by_name(name: str, entries: Sequence[str]) -> dict[str, int | str | bool | None]:
    """Parses entries such as "kernel_size=7" or "stage_0_block=none".

    Raises:
        InputError: An entry is malformed, or a name is given twice.
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
