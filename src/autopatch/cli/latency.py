"""The measure-latency command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopatch.cli.console import note, progress, table
from autopatch.cli.options import (
    BankSizes,
    Batch,
    BitDepth,
    Device,
    Exif,
    Fixed,
    ImageSizes,
    Mean,
    PatchSizes,
    Seed,
    Space,
    SpacePreset,
    Std,
    TimmKwargs,
    Weights,
)
from autopatch.cli.values import (
    choices_by_field,
    choices_by_name,
    floats,
    json_object,
)


def measure_latency(
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of good images, or of a data set in the MVTec-AD layout.", metavar="DATA"
        ),
    ],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    space: Space = "autopatch_s",
    weights: Weights = "auto",
    preset: SpacePreset = "default",
    image_size: ImageSizes = None,
    patch_size: PatchSizes = None,
    bank_size: BankSizes = None,
    fixed: Fixed = None,
    mean: Mean = None,
    std: Std = None,
    timm_kwargs: TimmKwargs = None,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads that the detector will have; default: as many as torch."),
    ] = None,
    batch: Batch = 1,
) -> None:
    """Measures on this machine how long detectors of a search space take.

    `search --latency-table` then uses the file, here or on another machine. The options of the
    space must be those of the search.
    """
    from autopatch.runs import measure_latency as measure

    with progress() as bar:
        measured = measure(
            images,
            out,
            space=space,
            weights=weights,
            preset=preset,
            choices=choices_by_field(image_size, patch_size, bank_size),
            fixed=choices_by_name("--fixed", fixed or []),
            mean=floats("--mean", mean),
            std=floats("--std", std),
            space_options={"timm_kwargs": json_object("--timm-kwargs", timm_kwargs)},
            bit_depth=bit_depth,
            exif=exif,
            seed=seed,
            device=device,
            threads=threads,
            batch=batch,
            progress=bar,
        )
    table(
        "Random candidates, ms per image",
        ["candidate", "table", "timed whole", "error"],
        [
            [
                one.architecture,
                f"{1e3 * one.predicted:.2f}",
                f"{1e3 * one.measured:.2f}",
                f"{100 * one.error:.0f} %",
            ]
            for one in measured.check
        ],
    )
    note(f"written: {out}")
