"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Argument(help="Folder in the MVTec-AD layout, or folder of good images.", metavar="DATA"),
]
RunFolder = Annotated[Path, typer.Argument(help="Folder written by `search`.", metavar="RUN")]
GroupRegex = Annotated[
    str | None,
    typer.Option(
        help="Regular expression for file names; images with the same first match group stay "
        "together in the split and in the folds that set the threshold."
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with the columns file,group; images of a group stay together in the split "
        "and in the folds that set the threshold."
    ),
]
CacheGib = Annotated[
    float, typer.Option(help="Memory for images and feature maps that candidates share, in GiB.")
]
Shots = Annotated[int, typer.Option(help="Number of validation images of each anomaly type.")]
Kinds = Annotated[
    str | None,
    typer.Option(
        help="Kinds of synthetic anomalies, separated by commas, such as scratch,texture; default: "
        "all."
    ),
]
PerKind = Annotated[int, typer.Option(help="Number of synthetic anomalies of each kind.")]
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
