"""The search command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from autopatch.cli.console import failure, note, progress
from autopatch.cli.options import (
    BankSizes,
    BitDepth,
    CacheGib,
    Data,
    Device,
    Exif,
    GroupRegex,
    Groups,
    LegacyOrder,
    MaskThreshold,
    Protocol,
    RecalibrateBn,
    Reserve,
    Resume,
    Seed,
    Shots,
    choices_by_name,
    floats,
    integers,
    json_object,
)
from autopatch.cli.options import bank_sizes as parse_bank_sizes
from autopatch.cli.tables import print_front


def search(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder to make for the search.")],
    space: Annotated[
        str,
        typer.Option(
            help="Search space: autopatch_s, timm:<model name>, elastic:<model name>, ofa_mbv3, or "
            "one of its networks."
        ),
    ] = "autopatch_s",
    weights: Annotated[
        str,
        typer.Option(
            help="'auto' (autopatch_s: in this package; ofa_mbv3: the published ones, downloaded), "
            "a .safetensors file, 'pretrained' (timm's hub) or 'random'; of ofa_mbv3 also a folder."
        ),
    ] = "auto",
    space_preset: Annotated[
        str, typer.Option(help="'default', or 'published' for the space and costs of the paper.")
    ] = "default",
    sampler: Annotated[
        str, typer.Option(help="'nsga2', or 'tpe' as in the published search.")
    ] = "nsga2",
    shots: Shots = 1,
    evaluations: Annotated[int, typer.Option(help="Architectures to evaluate.")] = 60,
    seed: Seed = 0,
    population: Annotated[int, typer.Option(help="Architectures a generation.")] = 12,
    reserve: Reserve = 4,
    protocol: Protocol = "random",
    group_regex: GroupRegex = None,
    groups: Groups = None,
    legacy_order: LegacyOrder = None,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    mask_threshold: MaskThreshold = None,
    image_sizes: Annotated[
        str | None, typer.Option(help="Sides to choose from, such as 160,224.")
    ] = None,
    patch_sizes: Annotated[
        str | None, typer.Option(help="Patch sizes to choose from, such as 1,3,5.")
    ] = None,
    bank_sizes: BankSizes = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(help="A single choice for a gene or all of a kind, such as kernel_size=7."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Channel means, where the weights file has none.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Channel deviations, where the weights file has none.")
    ] = None,
    timm_kwargs: Annotated[
        str | None, typer.Option(help="JSON, where the weights file has none.")
    ] = None,
    recalibrate_bn: RecalibrateBn = False,
    cache_gib: CacheGib = 4.0,
    device: Device = "cpu",
    resume: Resume = False,
) -> None:
    """Searches a space for detectors: FLOPs against rwAP on a few anomalies."""
    from autopatch.runs import run_search

    choices = {
        "image_size": integers("--image-sizes", image_sizes),
        "patch_size": integers("--patch-sizes", patch_sizes),
        "bank_size": parse_bank_sizes(bank_sizes),
    }
    with search_outcome(out), progress() as bar:
        run = run_search(
            data,
            out,
            space=space,
            weights=weights,
            preset=space_preset,
            sampler=sampler,
            choices={name: values for name, values in choices.items() if values is not None},
            fixed=choices_by_name("--fixed", fixed or []),
            shots=shots,
            evaluations=evaluations,
            seed=seed,
            population=population,
            reserve=reserve,
            protocol=protocol,
            group_regex=group_regex,
            groups=groups,
            legacy_order=legacy_order,
            bit_depth=bit_depth,
            exif=exif,
            mask_threshold=mask_threshold,
            mean=floats("--mean", mean),
            std=floats("--std", std),
            space_options={
                "timm_kwargs": json_object("--timm-kwargs", timm_kwargs),
                "recalibrate_batch_norm": recalibrate_bn,
            },
            cache_gib=cache_gib,
            device=device,
            resume=resume,
            progress=bar,
        )
    print_front(run)
    note(f"next: autopatch fit {out}, then autopatch evaluate {out} and autopatch report {out}")


@contextmanager
def search_outcome(out: Path) -> Iterator[None]:
    """Ends the program as a search that was interrupted or has no result does."""
    from autopatch.search import SearchError

    try:
        yield
    except KeyboardInterrupt:
        failure(f"interrupted; the same search with --resume goes on in {out}")
        raise typer.Exit(130) from None
    except SearchError as error:
        failure(f"{error}; the record in {out} holds every reason")
        raise typer.Exit(1) from None
