"""The synthesize command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopatch.cli.console import note, progress
from autopatch.cli.options import (
    BitDepth,
    Exif,
    Kinds,
    MaskThreshold,
    PerKind,
    Seed,
)
from autopatch.cli.values import (
    names,
)


def synthesize(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder in the MVTec-AD layout, or folder of good images.", metavar="DATA"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    kinds: Kinds = None,
    per_kind: PerKind = 10,
    seed: Seed = 0,
    shots: Annotated[
        int,
        typer.Option(
            help="Number of real anomalous images of each type whose defects are transplanted."
        ),
    ] = 0,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    mask_threshold: MaskThreshold = None,
) -> None:
    """Draws synthetic anomalies on good images, with exact masks and a contact sheet.

    A search draws such anomalies itself; this shows what they look like on your images.
    """
    from autopatch.data import Reading
    from autopatch.runs import synthesize as draw
    from autopatch.runs.synthesize import CONTACT_SHEET
    from autopatch.words import counted

    reading = Reading(bit_depth=bit_depth, exif=exif, mask_threshold=mask_threshold)
    with progress() as report:
        anomalies = draw(
            data,
            out,
            kinds=names("--kinds", kinds),
            per_kind=per_kind,
            seed=seed,
            shots=shots,
            reading=reading,
            progress=report,
        )
    drawn = {anomaly.sample.type: None for anomaly in anomalies}
    sources = {anomaly.source.image for anomaly in anomalies}
    note(
        f"anomalies: {len(anomalies):,} on {counted(len(sources), 'good image')}, of the kinds "
        f"{', '.join(drawn)}"
    )
    note(f"written: {out}: {CONTACT_SHEET}, test, ground_truth")
