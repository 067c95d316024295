"""The search command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from autopatch.cli.console import failure, note, progress
from autopatch.cli.options import (
    BankSizes,
    Batch,
    BitDepth,
    CacheGib,
    Data,
    Device,
    Exif,
    Fixed,
    GroupRegex,
    Groups,
    ImageSizes,
    Kinds,
    LegacyOrder,
    MaskThreshold,
    Mean,
    NoLock,
    PatchSizes,
    PerKind,
    Protocol,
    RecalibrateBn,
    Reserve,
    Resume,
    Seed,
    Space,
    SpacePreset,
    SplitSeed,
    Std,
    TimmKwargs,
    Weights,
)
from autopatch.cli.tables import print_front
from autopatch.cli.values import (
    choices_by_field,
    choices_by_name,
    floats,
    json_object,
    names,
    share,
    with_unit,
)
from autopatch.errors import InputError


def search(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder to create.")],
    space: Space = "autopatch_s",
    weights: Weights = "auto",
    preset: SpacePreset = "default",
    cost: Annotated[
        str | None,
        typer.Option(
            help="What detectors should have little of: latency, memory, total_flops, or published "
            "(FLOPs of ofa_mbv3 as published); default: latency, unless the preset has its own."
        ),
    ] = None,
    latency_factor: Annotated[
        str | None,
        typer.Option(
            "--max-latency",
            help="Only detectors that take at most so long per image: a time such as 10ms, a "
            "multiple of the PatchCore baseline such as 2x, or 'none' for no bound; default: 4x if "
            "the cost is the latency.",
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Only detectors that take at most so much memory, such as 32MB."),
    ] = None,
    min_image_auroc: Annotated[
        float | None,
        typer.Option(
            help="Only detectors with at least this AUROC of image scores on the validation "
            "images, such as 0.9; with synthetic anomalies, combined like robust rwAP."
        ),
    ] = None,
    latency_table: Annotated[
        Path | None,
        typer.Option(
            help="File written by `measure-latency`, on this machine or another; by default the "
            "latency is measured on this machine."
        ),
    ] = None,
    batch: Batch = 1,
    rule: Annotated[
        str | None,
        typer.Option(
            help="How detectors are judged and picked: 'robust' (synthetic anomalies and shots), "
            "'knee' (the best trade-off of cost and the same quality), or 'best' (shots alone, as "
            "published); default: robust, unless the preset has its own."
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(help="Optimizer: 'gp' (Gaussian processes), 'nsga2', or 'tpe' as published."),
    ] = "gp",
    shots: Annotated[
        int | None,
        typer.Option(
            help="Number of validation images of each anomaly type; 0 to search with synthetic "
            "anomalies alone; default: 1, or 0 if there are no anomalous images."
        ),
    ] = None,
    kinds: Kinds = None,
    per_kind: PerKind = 10,
    evaluations: Annotated[int, typer.Option(help="Number of architectures to evaluate.")] = 100,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    population: Annotated[int, typer.Option(help="Architectures per generation of 'nsga2'.")] = 12,
    reserve: Reserve = 4,
    protocol: Protocol = "random",
    group_regex: GroupRegex = None,
    groups: Groups = None,
    legacy_order: LegacyOrder = None,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    mask_threshold: MaskThreshold = None,
    image_size: ImageSizes = None,
    patch_size: PatchSizes = None,
    bank_size: BankSizes = None,
    fixed: Fixed = None,
    mean: Mean = None,
    std: Std = None,
    timm_kwargs: TimmKwargs = None,
    recalibrate_batch_norm: RecalibrateBn = False,
    cache_gib: CacheGib = 4.0,
    device: Device = "cpu",
    resume: Resume = False,
    no_lock: NoLock = False,
) -> None:
    """Searches for the detectors with the best trade-offs of cost and quality."""
    from autopatch.runs import run_search

    byte = {"MB": 1e6, "MiB": 2.0**20, "GB": 1e9, "GiB": 2.0**30}
    seconds, factor = latency_bound(latency_factor)
    constraints = {
        "latency": seconds,
        "memory": with_unit("--max-memory", max_memory, byte),
    }
    with search_outcome(out), progress() as bar:
        run = run_search(
            data,
            out,
            space=space,
            weights=weights,
            preset=preset,
            sampler=sampler,
            rule=rule,
            cost=None if cost is None else cost_of(cost),
            constraints={name: bound for name, bound in constraints.items() if bound is not None},
            latency_factor=factor,
            min_image_auroc=share("--min-image-auroc", min_image_auroc),
            latency_table=latency_table,
            batch=batch,
            choices=choices_by_field(image_size, patch_size, bank_size),
            fixed=choices_by_name("--fixed", fixed or []),
            shots=shots,
            kinds=names("--kinds", kinds),
            per_kind=per_kind,
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


def cost_of(cost: str) -> str:
    """Name of the objective that a cost stands for.

    Raises:
        InputError: No cost has this name.
    """
    from autopatch.search import OBJECTIVES

    found = [name for name in (cost, f"{cost}_flops") if name in OBJECTIVES]
    if not found or OBJECTIVES[found[0]].is_maximized:
        known = [name for name in OBJECTIVES if not OBJECTIVES[name].is_maximized]
        raise InputError(f"`cost` is '{cost}', expected {' or '.join(known)}")
    return found[0]


def latency_bound(text: str | None) -> tuple[float | None, float | None]:
    """Parses `--max-latency`: seconds, or a factor of the PatchCore baseline.

    Raises:
        InputError: The text is something else.
    """
    if text is None:
        return None, None
    if text == "none":
        return None, math.inf
    try:
        if text.endswith("x"):
            return None, with_unit("", text, {"x": 1.0})
        return with_unit("", text, {"ms": 1e-3, "s": 1.0}), None
    except InputError:
        raise InputError(
            f"--max-latency is '{text}', expected a time such as 10ms, a multiple of the PatchCore "
            "baseline such as 2x, or none"
        ) from None


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
