"""Options that several commands share, and parsers of their values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autopatch.errors import InputError
from autopatch.genes import Choice

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
Space = Annotated[
    str,
    typer.Option(
        help="Search space: autopatch_s, timm:<model name>, elastic:<model name>, ofa_mbv3, or "
        "one of its networks."
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="'auto' (autopatch_s: included; ofa_mbv3: downloads the published weights), "
        "'pretrained' (timm's hub), 'random', a .safetensors file, or a folder for ofa_mbv3."
    ),
]
SpacePreset = Annotated[
    str,
    typer.Option(
        "--space-preset",
        help="'default', or 'published' for the space and the objectives of the paper.",
    ),
]
ImageSizes = Annotated[
    str | None,
    typer.Option("--image-sizes", help="Image sizes to choose from, in pixels, such as 160,224."),
]
PatchSizes = Annotated[
    str | None, typer.Option("--patch-sizes", help="Patch sizes to choose from, such as 1,3,5.")
]
BankSizes = Annotated[
    str | None,
    typer.Option(
        "--bank-sizes", "--bank-size", help="Bank sizes to choose from, such as 1000,5000,all."
    ),
]
Fixed = Annotated[
    list[str] | None,
    typer.Option(help="Fix a gene, or all genes of a field, such as kernel_size=7. Repeatable."),
]
Batch = Annotated[int, typer.Option(help="Number of images per batch whose latency counts.")]
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
