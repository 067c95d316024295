"""The import-study command."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopatch.cli.console import note, progress, table
from autopatch.cli.options import (
    BitDepth,
    CacheGib,
    Device,
    Exif,
    LegacyOrder,
    MaskThreshold,
    NoLock,
    Protocol,
    RecalibrateBn,
    Reserve,
    Resume,
    Seed,
    Shots,
    SplitSeed,
)
from autopatch.cli.search import print_next, search_outcome
from autopatch.cli.tables import print_front
from autopatch.cli.values import (
    bank_sizes,
    choices_by_name,
    integers,
)
from autopatch.errors import InputError

if TYPE_CHECKING:
    from autopatch.published.imported import ImportedStudy
    from autopatch.published.studies import PublishedTrial


def import_study(
    file: Annotated[
        Path, typer.Argument(help="Published study database (Optuna, SQLite).", metavar="FILE")
    ],
    study: Annotated[
        str | None, typer.Option(help="Name of a study; default: all studies.")
    ] = None,
    trials: Annotated[
        str | None,
        typer.Option(help="Numbers of the trials to evaluate, such as 0,3; default: all."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            help="Fix a parameter that the study did not search, such as kernel_size=7. Repeatable."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder in the MVTec-AD layout to evaluate on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create for the evaluations.")] = None,
    weights: Annotated[
        str, typer.Option(help="'auto' (published), 'random', or a folder with the weights.")
    ] = "auto",
    shots: Shots = 1,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    reserve: Reserve = 4,
    protocol: Protocol = "autopatch",
    bank_size: Annotated[
        str | None,
        typer.Option(help="Number of patches in the memory bank; default: all, as published."),
    ] = None,
    recalibrate_batch_norm: RecalibrateBn = False,
    cache_gib: CacheGib = 4.0,
    device: Device = "cpu",
    legacy_order: LegacyOrder = None,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    mask_threshold: MaskThreshold = None,
    resume: Resume = False,
    no_lock: NoLock = False,
) -> None:
    """Lists the architectures of a published study; with --data, evaluates them."""
    from autopatch.published.imported import choose_trials
    from autopatch.published.imported import import_study as import_published
    from autopatch.published.space import published_space
    from autopatch.published.studies import load_published

    wanted = integers("--trials", trials)
    given = choices_by_name("--fixed", fixed or [])
    if data is None and (out is not None or wanted is not None):
        raise InputError("--out and --trials need --data, the images to evaluate on")
    if data is not None and out is None:
        raise InputError("--data needs --out, a folder to make for the evaluations")
    if data is None or out is None:
        names = None if study is None else [study]
        published = load_published(file, published_space(), studies=names, fixed=given)
        _print_published(published.trials)
        if published.others:
            note(f"failed or unfinished trials: {published.others}")
        return
    sizes = bank_sizes("--bank-size", bank_size) or (None,)
    if len(sizes) != 1:
        raise InputError(f"--bank-size is '{bank_size}', expected one number or 'all'")
    _print_published(choose_trials(file, study=study, trials=wanted, fixed=given))
    with search_outcome(out), progress() as bar:
        imported = import_published(
            file,
            data,
            out,
            study=study,
            trials=wanted,
            fixed=given,
            bank_size=sizes[0],
            weights=weights,
            shots=shots,
            seed=seed,
            split_seed=split_seed,
            reserve=reserve,
            protocol=protocol,
            legacy_order=legacy_order,
            bit_depth=bit_depth,
            exif=exif,
            mask_threshold=mask_threshold,
            recalibrate_batch_norm=recalibrate_batch_norm,
            cache_gib=cache_gib,
            device=device,
            resume=resume,
            lock=not no_lock,
            progress=bar,
        )
    print_front(imported.run)
    print_next(out)
    _print_compared(imported)


def _print_published(trials: Sequence[PublishedTrial]) -> None:
    ordered = sorted(trials, key=lambda t: (t.study, t.flops, t.number))
    for study, of_study in groupby(ordered, key=lambda trial: trial.study):
        table(
            f"{study}: published architectures, FLOPs and rwAP",
            ["architecture", "trial", "GFLOP", "GMAC", "rwAP"],
            [
                [
                    t.describe(),
                    str(t.number),
                    f"{t.flops / 1e9:.2f}",
                    f"{t.cost.macs / 1e9:.2f}",
                    f"{100 * t.rwap:.1f}",
                ]
                for t in of_study
            ],
        )
    others = [trial for trial in ordered if trial.flops != trial.cost.flops]
    if others:
        trial = others[0]
        note(
            f"the stored FLOPs of {len(others)} of {len(ordered)} trials do not follow the "
            f"published rule, the first: trial {trial.number} of {trial.study} has "
            f"{trial.flops:,}, the rule gives {trial.cost.flops:,}"
        )
    elif ordered:
        note("all stored FLOPs follow the published rule")


def _print_compared(imported: ImportedStudy) -> None:
    rows = []
    for published, trial in imported.pairs():
        found = ["failed", ""]
        if trial is not None and trial.evaluation is not None:
            found = [str(trial.number), f"{100 * trial.evaluation.metrics['rwAP']:.1f}"]
        rows.append([str(published.number), f"{100 * published.rwap:.1f}", *found])
    features = "; RANDOM features" if imported.run.supernet.random_features else ""
    table(
        f"{imported.published[0].study}: rwAP as published and here{features}",
        ["published trial", "published rwAP", "trial here", "rwAP here"],
        rows,
    )
