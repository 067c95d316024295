"""The commands that make a run folder: a search, and the evaluation of published architectures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopatch.cli.console import console, failure, note, progress, table
from autopatch.cli.options import (
    BankSizes,
    CacheGib,
    Data,
    Device,
    GroupRegex,
    Groups,
    LegacyOrder,
    Protocol,
    RecalibrateBn,
    Reserve,
    Resume,
    Seed,
    Shots,
    cache_bytes,
    choices_by_name,
    floats,
    integers,
    json_object,
    usable_device,
)
from autopatch.cli.options import bank_sizes as parse_bank_sizes
from autopatch.errors import InputError

if TYPE_CHECKING:
    import torch

    from autopatch.data import Split
    from autopatch.progress import Progress
    from autopatch.search import Plan, Trial
    from autopatch.search.published import PublishedTrial
    from autopatch.search.run import Run, Source
    from autopatch.supernet import SearchSpace, Supernet


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
    from autopatch.search import Plan
    from autopatch.search.measurements import baselines

    _check_new_run(out, shots, resume)
    where = usable_device(device)
    if space_preset not in ("default", "published"):
        raise InputError(f"--space-preset is '{space_preset}', expected 'default' or 'published'")
    choices: dict[str, Any] = {
        "image_sizes": integers("--image-sizes", image_sizes),
        "patch_sizes": integers("--patch-sizes", patch_sizes),
        "bank_sizes": parse_bank_sizes(bank_sizes),
    }
    source = _source(
        data,
        space,
        weights,
        mean=floats("--mean", mean),
        std=floats("--std", std),
        timm_kwargs=json_object("--timm-kwargs", timm_kwargs),
        recalibrate_batch_norm=recalibrate_bn,
        group_regex=group_regex,
        groups_csv=str(groups.resolve()) if groups else None,
        legacy_order=str(legacy_order.resolve()) if legacy_order else None,
    )
    split = _split(source, shots, reserve, seed, protocol)
    supernet = _load_supernet(source, seed)
    given = {name: values for name, values in choices.items() if values is not None}
    if space_preset == "published":
        searched, cost = _published_space(supernet, given), "published_flops"
    else:
        searched, cost = supernet.search_space(**given), "total_flops"
    if fixed:
        searched = _narrowed(searched, fixed)
    plan = Plan(
        searched,
        evaluations=evaluations,
        seed=seed,
        population=population,
        initial=baselines(searched, supernet, split) if space_preset == "default" else (),
        sampler=sampler,
        cost=cost,
    )
    _search(out, split, source, supernet, plan, cache_gib=cache_gib, device=where, resume=resume)


def _search(
    out: Path,
    split: Split,
    source: Source,
    supernet: Supernet,
    plan: Plan,
    *,
    cache_gib: float,
    device: torch.device,
    resume: bool,
) -> None:
    import numpy as np

    from autopatch.search import SearchError, load_trials
    from autopatch.search import search as run_search
    from autopatch.search.candidates import CandidateEvaluator
    from autopatch.search.run import STUDY, Run, open_search

    space = plan.space
    note(f"{source.data}: {_describe_split(split)}")
    for line in split.notes:
        note(f"  {line}")
    note(f"{supernet.name}: {supernet.provenance}; {space.size():,} architectures")
    for line in _differences(plan):
        note(line)
    step = _CandidateProgress()
    evaluator = CandidateEvaluator(
        supernet,
        fit=split.fit,
        scored=(*split.holdout, *split.validation),
        cost=plan.cost,
        seed=plan.seed,
        cache_bytes=cache_bytes(cache_gib),
        device=device,
        progress=step,
    )
    if supernet.shared_levels:
        any_one = space.decode(space.sample(np.random.default_rng(0)))
        of_each_size = [replace(any_one, image_size=s) for s in space.choices("image_size")]
        for size, needed in evaluator.too_large_to_keep(of_each_size).items():
            note(
                f"feature maps at {size} px need {needed / 2**30:.1f} GiB, more than --cache-gib "
                f"{cache_gib:g}: they are computed anew for each candidate"
            )
    with open_search(out, split, source, plan, resume=resume) as study:
        stored = sum(trial.evaluation is not None for trial in study.trials())
        with progress(already_done=stored) as report:
            report("search", stored, plan.evaluations)
            step.report = report

            def show(done: int, total: int, trial: Trial, size: int) -> None:
                report(f"search: front of {size}", done, total)
                step.began = time.monotonic()

            try:
                front = run_search(evaluator, study, progress=show)
            except KeyboardInterrupt:
                failure(f"interrupted; the same search with --resume goes on in {out}")
                raise typer.Exit(130) from None
            except SearchError as error:
                failure(f"{error}; {out / STUDY} holds every reason")
                raise typer.Exit(1) from None
    if front.note:
        note(front.note)
    if front.failed:
        failed = [t for t in load_trials(out / STUDY) if t.evaluation is None]
        note(f"{front.failed} candidates failed, the first: {failed[0].reason}")
    print_front(Run.open(out), supernet)
    note(f"next: autopatch fit {out}, then autopatch evaluate {out} and autopatch report {out}")


class _CandidateProgress:
    """Shows how far a single candidate is, if it takes long."""

    def __init__(self) -> None:
        self.report: Progress | None = None
        self.began = time.monotonic()

    def __call__(self, step: str, done: int, total: int) -> None:
        if self.report is not None and time.monotonic() - self.began > 5:
            self.report(f"candidate: {step}", done, total)


def _differences(plan: Plan) -> list[str]:
    """Where a search by the published costs is not the published one."""
    import optuna

    if plan.cost != "published_flops":
        return []
    lines = []
    if plan.space.fixed.get("bank_size", 0) is not None:
        lines.append("the size of the bank is not as published: there it holds all patches")
    if plan.sampler == "tpe" and int(optuna.__version__.split(".")[0]) >= 5:
        lines.append(
            f"TPE of Optuna {optuna.__version__} weighs trials otherwise than the published one; "
            "Optuna below 5 comes nearer"
        )
    return lines


def import_study(
    file: Annotated[
        Path, typer.Argument(help="Published study database (Optuna SQLite).", metavar="FILE")
    ],
    study: Annotated[
        str | None, typer.Option(help="Name of one study; all of them if absent.")
    ] = None,
    trials: Annotated[
        str | None, typer.Option(help="Trials to evaluate, such as 0,3; all if absent.")
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(help="A parameter that a study did not search, such as kernel_size=7."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Evaluate on this folder in the MVTec-AD layout.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make for the evaluations.")] = None,
    weights: Annotated[
        str, typer.Option(help="'auto' (published), a folder that holds them, or 'random'.")
    ] = "auto",
    shots: Shots = 1,
    seed: Seed = 0,
    reserve: Reserve = 4,
    protocol: Protocol = "autopatch",
    bank_sizes: BankSizes = None,
    recalibrate_bn: RecalibrateBn = False,
    cache_gib: CacheGib = 4.0,
    device: Device = "cpu",
    legacy_order: LegacyOrder = None,
    resume: Resume = False,
) -> None:
    """Lists the architectures of a published study; with --data evaluates them on your images."""
    from autopatch.search import Plan, load_published
    from autopatch.supernet import OFA_MBV3, published_space

    wanted = integers("--trials", trials)
    if data is None and (out is not None or wanted is not None):
        raise InputError("--out and --trials need --data, the images to evaluate on")
    if data is not None and out is None:
        raise InputError("--data needs --out, a folder to make for the evaluations")
    names = None if study is None else [study]
    published = load_published(
        file, published_space(), studies=names, fixed=choices_by_name("--fixed", fixed or [])
    )
    if data is None or out is None:
        _print_published(published.trials)
        if published.others:
            note(f"others that failed or were not finished: {published.others}")
        return
    _check_new_run(out, shots, resume)
    where = usable_device(device)
    chosen = _chosen(file, published.trials, wanted)
    _print_published(chosen)
    bank = parse_bank_sizes(bank_sizes) or (None,)
    if len(bank) != 1:
        raise InputError(f"--bank-size is '{bank_sizes}', expected one")
    source = _source(
        data,
        OFA_MBV3,
        weights,
        recalibrate_batch_norm=recalibrate_bn,
        legacy_order=str(legacy_order.resolve()) if legacy_order else None,
    )
    split = _split(source, shots, reserve, seed, protocol)
    supernet = _load_supernet(source, seed)
    space = _published_space(supernet, {"bank_sizes": bank})
    chosen = [replace(t, architecture=replace(t.architecture, bank_size=bank[0])) for t in chosen]
    architectures = dict.fromkeys(t.architecture for t in chosen)
    plan = Plan(
        space,
        evaluations=len(architectures),
        seed=seed,
        initial=tuple(architectures),
        cost="published_flops",
        settings={"imported": {"study": chosen[0].study, "trials": [t.number for t in chosen]}},
    )
    _search(out, split, source, supernet, plan, cache_gib=cache_gib, device=where, resume=resume)
    _print_compared(out, chosen, supernet)


def _print_published(trials: Sequence[PublishedTrial]) -> None:
    from autopatch.supernet import describe_stages, stages_cost

    priced = [
        (t, stages_cost(t.architecture))
        for t in sorted(trials, key=lambda t: (t.study, t.flops, t.number))
    ]
    for study, of_study in groupby(priced, key=lambda pair: pair[0].study):
        table(
            f"{study}: published architectures, with the FLOPs and rwAP stored there",
            ["architecture", "trial", "GFLOP", "GMAC", "rwAP"],
            [
                [
                    describe_stages(t.architecture),
                    str(t.number),
                    f"{t.flops / 1e9:.2f}",
                    f"{cost.macs / 1e9:.2f}",
                    f"{100 * t.rwap:.1f}",
                ]
                for t, cost in of_study
            ],
        )
    others = [(t, cost) for t, cost in priced if t.flops != cost.flops]
    if others:
        trial, cost = others[0]
        note(
            f"FLOPs stored for {len(others)} of {len(priced)} are not those of the published "
            f"rule, the first: trial {trial.number} of {trial.study} has {trial.flops:,}, the rule "
            f"gives {cost.flops:,}"
        )
    elif priced:
        note("all FLOPs stored are those of the published rule")


def _print_compared(out: Path, chosen: Sequence[PublishedTrial], supernet: Supernet) -> None:
    from autopatch.search import load_trials
    from autopatch.search.run import STUDY

    here = {t.architecture: t for t in load_trials(out / STUDY) if t.evaluation is not None}
    rows = []
    for published in chosen:
        trial = here.get(published.architecture)
        found = ["failed", ""]
        if trial is not None and trial.evaluation is not None:
            found = [str(trial.number), f"{100 * trial.evaluation.metrics['rwAP']:.1f}"]
        rows.append([str(published.number), f"{100 * published.rwap:.1f}", *found])
    features = "; RANDOM features" if supernet.random_features else ""
    table(
        f"{chosen[0].study}: rwAP published and here{features}",
        ["published trial", "published rwAP", "trial here", "rwAP here"],
        rows,
    )


def _chosen(
    file: Path, trials: Sequence[PublishedTrial], wanted: Sequence[int | None] | None
) -> list[PublishedTrial]:
    studies = sorted({trial.study for trial in trials})
    if not studies:
        raise InputError(f"{file}: holds no finished trial to evaluate")
    if len(studies) != 1:
        raise InputError(f"{file}: holds the studies {studies}; choose one with --study")
    by_number = {trial.number: trial for trial in trials}
    for number in wanted or ():
        if number not in by_number:
            raise InputError(
                f"--trials: study {studies[0]} has no finished trial {number}, but "
                f"{', '.join(map(str, by_number))}"
            )
    return [trial for trial in trials if wanted is None or trial.number in wanted]


def _narrowed(space: SearchSpace, fixed: Sequence[str]) -> SearchSpace:
    try:
        return space.narrowed(choices_by_name("--fixed", fixed))
    except InputError as error:
        raise InputError(f"--fixed: {error}") from None


def _check_new_run(out: Path, shots: int, resume: bool) -> None:
    if shots < 1:
        raise InputError(
            f"--shots is {shots}: a search needs at least 1 image of each anomaly type"
        )
    if out.exists() and not resume:
        raise InputError(
            f"{out}: exists; give --resume to go on with the search in it, or another --out"
        )


def _source(data: Path, space: str, weights: str, **other: Any) -> Source:
    from autopatch.search.run import Source, sha256
    from autopatch.supernet import weights_files

    files = weights_files(space, weights)
    return Source(
        data=str(data.resolve()),
        supernet=space,
        weights=str(Path(weights).resolve()) if files else weights,
        weights_sha256=sha256(files) if files else None,
        **other,
    )


def _load_supernet(source: Source, seed: int) -> Supernet:
    if source.weights != "auto":
        return source.load_supernet(seed=seed)
    with progress() as report:

        def show(step: str, done: int, total: int) -> None:
            report(f"{step}, MiB", done >> 20, total >> 20)

        return source.load_supernet(seed=seed, progress=show)


def _published_space(supernet: Supernet, choices: dict[str, Any]) -> SearchSpace:
    from autopatch.supernet import OnceForAllSupernet

    if not isinstance(supernet, OnceForAllSupernet):
        raise InputError(f"--space-preset published is of ofa_mbv3, not of {supernet.name}")
    for name in ("image_sizes", "patch_sizes"):
        if name in choices:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is given, but --space-preset published has its own")
    return supernet.published_space(**choices)


def _split(source: Source, shots: int, reserve: int, seed: int, protocol: str) -> Split:
    from autopatch.data import MVTecAD, make_split, require_valid

    dataset = MVTecAD.scan(
        Path(source.data),
        group_regex=source.group_regex,
        groups_csv=Path(source.groups_csv) if source.groups_csv else None,
    )
    split = make_split(
        dataset,
        shots=shots,
        reserve=reserve,
        seed=seed,
        protocol=protocol,
        legacy_order=Path(source.legacy_order) if source.legacy_order else None,
    )
    with console.status("reading images"):
        require_valid(dataset)
    return split


def _describe_split(split: Split) -> str:
    anomalous = sum(sample.type != "good" for sample in split.test)
    return (
        f"{len(split.fit)} good images to fit, {len(split.holdout)} good and "
        f"{len(split.validation)} anomalous to search with, {len(split.calibration)} good for the "
        f"threshold; test part: {len(split.test) - anomalous} good, {anomalous} anomalous"
    )


def print_front(run: Run, supernet: Supernet) -> None:
    """The table of the front on the validation part."""
    front = run.front
    published = run.cost == "published_flops"
    rows = []
    for trial in front.trials:
        assert trial.evaluation is not None
        metrics = trial.evaluation.metrics
        cost = supernet.published_cost(trial.architecture) if published else None
        rows.append(
            [
                supernet.describe(trial.architecture),
                f"{trial.number}{' (pick)' if trial.number == front.pick.number else ''}",
                f"{trial.evaluation.cost / 1e9:.2f}",
                *([] if cost is None else [f"{cost.macs / 1e9:.2f}"]),
                f"{100 * metrics['rwAP']:.1f}",
                f"{100 * metrics['AP']:.1f}",
            ]
        )
    features = "; RANDOM features" if supernet.random_features else ""
    table(
        f"Pareto front, validation part ({len(run.split.validation)} anomalous images){features}",
        ["architecture", "trial", gflop(run), *(["GMAC"] if published else []), "rwAP", "AP"],
        rows,
    )


def gflop(run: Run) -> str:
    """Heading of a column of costs."""
    return "published GFLOP" if run.cost == "published_flops" else "GFLOP"
