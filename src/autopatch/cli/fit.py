"""The fit command."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from autopatch.cli.console import note, progress
from autopatch.cli.options import (
    BitDepth,
    Device,
    GroupRegex,
    Groups,
    Mean,
    Std,
    TimmKwargs,
)
from autopatch.cli.values import (
    floats,
    json_object,
)
from autopatch.errors import InputError

if TYPE_CHECKING:
    from autopatch.detector import Detector


def fit(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder written by `search`, or a folder of good images.", metavar="FOLDER"
        ),
    ],
    trial: Annotated[
        int | None,
        typer.Option(help="After a search: number of the trial to fit; default: the pick."),
    ] = None,
    patchcore: Annotated[
        bool, typer.Option("--patchcore", help="After a search: fit the PatchCore baseline.")
    ] = False,
    rule: Annotated[
        str | None,
        typer.Option(
            help="After a search: rule that picks the trial, 'robust', 'best' or 'knee'; default: "
            "that of the search."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="After a search: folder of the data set, if it has moved.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Good images: search space of the backbone; default: autopatch_s."),
    ] = None,
    bank_size: Annotated[
        int | None,
        typer.Option(
            help="Good images: number of patches in the memory bank; default: 10 % of all."
        ),
    ] = None,
    defects: Annotated[
        Path | None,
        typer.Option(
            help="Good images: folder with images of known defects, and their masks beside them "
            "(NAME.png, NAME_mask.png)."
        ),
    ] = None,
    group_regex: GroupRegex = None,
    groups: Groups = None,
    seed: Annotated[
        int | None, typer.Option(help="Good images: seed of all random choices; default: 0.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    timm_kwargs: TimmKwargs = None,
    bit_depth: BitDepth = None,
    exif: Annotated[
        str | None,
        typer.Option(help="Good images: 'apply' (the default) or 'ignore', as for search."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="After a search: its weights, if they have moved. Good images: as for search."
        ),
    ] = None,
    architecture: Annotated[
        Path | None, typer.Option(help="JSON file of the architecture to fit.")
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of good images that may be called anomalous.")
    ] = 0.05,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; default after a search: FOLDER/detector.safetensors."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Fits a detector on good images and sets its threshold.

    If FOLDER was written by `search`, this fits the pick of the search on the good images of its
    data set. If FOLDER holds good images, this fits the PatchCore baseline on them; no anomalies or
    masks are needed. The threshold is set by folds of the good images. With --defects, the detector
    also knows the defects in another folder.
    """
    from autopatch.runs import Run, fit_images, is_run

    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder, expected one written by `search` or one of good images"
        )
    searched = is_run(folder)
    of_a_run = {"trial": trial, "patchcore": patchcore or None, "rule": rule, "data": data}
    of_images = {
        "space": space,
        "bank_size": bank_size,
        "defects": defects,
        "group_regex": group_regex,
        "groups": groups,
        "seed": seed,
        "mean": mean,
        "std": std,
        "timm_kwargs": timm_kwargs,
        "bit_depth": bit_depth,
        "exif": exif,
    }
    for name, value in (of_images if searched else of_a_run).items():
        if value is not None:
            is_what = "is the folder of a search" if searched else "is not the folder of a search"
            raise InputError(f"`{name}` is given, but {folder} {is_what}")
    if searched:
        run = Run.open(folder, data=data, weights=weights)
        with progress() as report:
            detector = run.fit(
                architecture,
                trial=trial,
                patchcore=patchcore,
                rule=rule,
                false_alarm_rate=false_alarm_rate,
                out=out,
                device=device,
                progress=report,
            )
        _print(detector, out or run.detector_path)
        for line in run.split.notes:
            note(f"  {line}")
        return
    if out is None:
        raise InputError(
            f"{folder} is not the folder of a search, so `out` is needed: the file to write"
        )
    with progress() as report:
        detector = fit_images(
            folder,
            out,
            space=space or "autopatch_s",
            weights=weights or "auto",
            architecture=architecture,
            bank_size=bank_size,
            defects=defects,
            group_regex=group_regex,
            groups=groups,
            false_alarm_rate=false_alarm_rate,
            seed=seed or 0,
            mean=floats("--mean", mean),
            std=floats("--std", std),
            space_options={"timm_kwargs": json_object("--timm-kwargs", timm_kwargs)},
            bit_depth=bit_depth,
            exif=exif or "apply",
            device=device,
            progress=report,
        )
    _print(detector, out)
    note(f"next: autopatch predict {quote(str(out))} IMAGES --out RESULTS")


def _print(detector: Detector, file: Path) -> None:
    note(f"{detector.total_flops / 1e9:.2f} GFLOP per image, nearest neighbors included")
    note(f"backbone: {detector.provenance}")
    note(detector.describe_known())
    note(detector.threshold.describe())
    note(f"written: {file}")
