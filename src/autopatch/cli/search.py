"""The search command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from autopatch.cli.console import failure, note, progress
from autopatch.cli.options import (
    BitDepth,
    CacheGib,
    Data,
    Device,
    Exif,
    GroupRegex,
    Groups,
    LegacyOrder,
    MaskThreshold,
    Mean,
    NoLock,
    Protocol,
    RecalibrateBn,
    Reserve,
    Resume,
    Seed,
    Shots,
    SplitSeed,
    Std,
    TimmKwargs,
    bank_sizes,
    choices_by_name,
    floats,
    integers,
    json_object,
)
from autopatch.cli.tables import print_front


def search(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder to create.")],
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
            help="'auto' (autopatch_s: included; ofa_mbv3: downloads the published weights), "
            "'pretrained' (timm's hub), 'random', a .safetensors file, or a folder for ofa_mbv3."
        ),
    ] = "auto",
    preset: Annotated[
        str,
        typer.Option(
            "--space-preset",
            help="'default', or 'published' for the space and the objectives of the paper.",
        ),
    ] = "default",
    sampler: Annotated[
        str, typer.Option(help="Optimizer: 'nsga2', or 'tpe' as published.")
    ] = "nsga2",
    shots: Shots = 1,
    evaluations: Annotated[int, typer.Option(help="Number of architectures to evaluate.")] = 60,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    population: Annotated[int, typer.Option(help="Architectures per generation.")] = 12,
    reserve: Reserve = 4,
    protocol: Protocol = "random",
    group_regex: GroupRegex = None,
    groups: Groups = None,
    legacy_order: LegacyOrder = None,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    mask_threshold: MaskThreshold = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-sizes", help="Image sizes to choose from, in pixels, such as 160,224."
        ),
    ] = None,
    patch_size: Annotated[
        str | None, typer.Option("--patch-sizes", help="Patch sizes to choose from, such as 1,3,5.")
    ] = None,
    bank_size: Annotated[
        str | None,
        typer.Option(
            "--bank-sizes", "--bank-size", help="Bank sizes to choose from, such as 1000,5000,all."
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            help="Fix a gene, or all genes of a field, such as kernel_size=7. Repeatable."
        ),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    timm_kwargs: TimmKwargs = None,
    recalibrate_batch_norm: RecalibrateBn = False,
    cache_gib: CacheGib = 4.0,
    device: Device = "cpu",
    resume: Resume = False,
    no_lock: NoLock = False,
) -> None:
    """Searches for the detectors with the best trade-offs of FLOPs and rwAP."""
    from autopatch.runs import run_search

    choices = {
        "image_size": integers("--image-sizes", image_size),
        "patch_size": integers("--patch-sizes", patch_size),
        "bank_size": bank_sizes("--bank-sizes", bank_size),
    }
    with search_outcome(out), progress() as bar:
        run = run_search(
            data,
            out,
            space=space,
            weights=weights,
            preset=preset,
            sampler=sampler,
            choices={name: values for name, values in choices.items() if values is not None},
            fixed=choices_by_name("--fixed", fixed or []),
            shots=shots,
            evaluations=evaluations,
            seed=seed,
            split_seed=split_seed,
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
                "recalibrate_batch_norm": recalibrate_batch_norm,
            },
            cache_gib=cache_gib,
            device=device,
            resume=resume,
            lock=not no_lock,
            progress=bar,
        )
    print_front(run)
    print_next(out)


def print_next(out: Path) -> None:
    """Prints the commands that follow a search, quoted for the shell."""
    run = quote(str(out))
    note(f"next: autopatch fit {run}, then autopatch evaluate {run} and autopatch report {run}")


@contextmanager
def search_outcome(out: Path) -> Iterator[None]:
    """Reports an interrupted or failed search, and exits with its code."""
    from autopatch.runs import is_run
    from autopatch.search import SearchError

    try:
        yield
    except KeyboardInterrupt:
        advice = f"; repeat the command with --resume to continue the search in {out}"
        failure(f"interrupted{advice if is_run(out) else ''}")
        raise typer.Exit(130) from None
    except SearchError as error:
        failure(f"{error}; all reasons are in the record in {out}")
        raise typer.Exit(1) from None
