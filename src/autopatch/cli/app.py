"""The commands. Each imports what it needs when it is called, so that `--help` is quick."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopatch.cli.console import console, failure, note, progress, table
from autopatch.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autopatch.data import Split
    from autopatch.search import Plan, Trial
    from autopatch.search.measurements import Measurements
    from autopatch.search.published import PublishedTrial
    from autopatch.search.run import Run, Source
    from autopatch.supernet import Architecture, SearchSpace, Supernet

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds the detector that sees a factory's defects at the least cost.",
)

Data = Annotated[Path, typer.Argument(help="Folder in the MVTec-AD layout.", metavar="DATA")]
RunFolder = Annotated[Path, typer.Argument(help="Folder that `search` made.", metavar="RUN")]
GroupRegex = Annotated[
    str | None,
    typer.Option(help="Images whose names agree in this pattern's first group stay together."),
]
Groups = Annotated[
    Path | None, typer.Option(help="CSV with the columns file,group: images that stay together.")
]
CacheGib = Annotated[float, typer.Option(help="Memory for feature maps that are kept, GiB.")]
Shots = Annotated[int, typer.Option(help="Validation images of each anomaly type.")]
Seed = Annotated[int, typer.Option(help="Of the split, the banks and the optimizer.")]
Reserve = Annotated[
    int, typer.Option(help="Images of each anomaly type that are never in the test part.")
]
Protocol = Annotated[
    str, typer.Option(help="Order of the split: 'random', or 'autopatch' as published.")
]
BankSizes = Annotated[
    str | None,
    typer.Option(
        "--bank-sizes", "--bank-size", help="Bank sizes to choose from, such as 1000,5000,all."
    ),
]
RecalibrateBn = Annotated[
    bool,
    typer.Option("--recalibrate-bn", help="Give each ofa_mbv3 subnet the good images' statistics."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the search in --out.")]


@app.command()
def search(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder to make for the search.")],
    weights: Annotated[
        str,
        typer.Option(
            help="A .safetensors file, 'pretrained' (timm's hub), 'auto' (published ofa_mbv3) or "
            "'random'; of ofa_mbv3 also a folder."
        ),
    ],
    space: Annotated[
        str, typer.Option(help="Search space: timm:<model name>, ofa_mbv3, or one of its networks.")
    ],
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
    image_sizes: Annotated[
        str | None, typer.Option(help="Sides to choose from, such as 160,224.")
    ] = None,
    patch_sizes: Annotated[
        str | None, typer.Option(help="Patch sizes to choose from, such as 1,3,5.")
    ] = None,
    bank_sizes: BankSizes = None,
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
    resume: Resume = False,
) -> None:
    """Searches a space for detectors: FLOPs against rwAP on a few anomalies."""
    from autopatch.search import Plan
    from autopatch.search.measurements import baselines

    _check_new_run(out, shots, resume)
    if space_preset not in ("default", "published"):
        raise InputError(f"--space-preset is '{space_preset}', expected 'default' or 'published'")
    choices: dict[str, Any] = {
        "image_sizes": _integers("--image-sizes", image_sizes),
        "patch_sizes": _integers("--patch-sizes", patch_sizes),
        "bank_sizes": _bank_sizes(bank_sizes),
    }
    source = _source(
        data,
        space,
        weights,
        mean=_floats("--mean", mean),
        std=_floats("--std", std),
        timm_kwargs=_json_object("--timm-kwargs", timm_kwargs),
        recalibrate_batch_norm=recalibrate_bn,
        group_regex=group_regex,
        groups_csv=str(groups.resolve()) if groups else None,
    )
    split = _split(source, shots, reserve, seed, protocol)
    supernet = _load_supernet(source, seed)
    given = {name: values for name, values in choices.items() if values is not None}
    if space_preset == "published":
        searched, cost = _published_space(supernet, given), "published_flops"
    else:
        searched, cost = supernet.search_space(**given), "total_flops"
    plan = Plan(
        searched,
        evaluations=evaluations,
        seed=seed,
        population=population,
        initial=baselines(searched, supernet, split) if space_preset == "default" else (),
        sampler=sampler,
        cost=cost,
    )
    _search(out, split, source, supernet, plan, cache_gib=cache_gib, resume=resume)


def _search(
    out: Path,
    split: Split,
    source: Source,
    supernet: Supernet,
    plan: Plan,
    *,
    cache_gib: float,
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
    if plan.cost == "published_flops" and space.fixed.get("bank_size", 0) is not None:
        note("the size of the bank is not as published: there it holds all patches")
    evaluator = CandidateEvaluator(
        supernet,
        fit=split.fit,
        scored=(*split.holdout, *split.validation),
        cost=plan.cost,
        seed=plan.seed,
        cache_bytes=_cache_bytes(cache_gib),
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

            def show(done: int, total: int, trial: Trial, size: int) -> None:
                report(f"search: front of {size}", done, total)

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
    _print_front(Run.open(out), supernet)
    note(f"next: autopatch fit {out}, then autopatch evaluate {out} and autopatch report {out}")


@app.command(name="import-study")
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
    resume: Resume = False,
) -> None:
    """Lists the architectures of a published study; with --data evaluates them on your images."""
    from autopatch.search import Plan, load_published
    from autopatch.supernet import OFA_MBV3, published_space

    wanted = _integers("--trials", trials)
    if data is None and (out is not None or wanted is not None):
        raise InputError("--out and --trials need --data, the images to evaluate on")
    if data is not None and out is None:
        raise InputError("--data needs --out, a folder to make for the evaluations")
    names = None if study is None else [study]
    published = load_published(file, published_space(), studies=names, fixed=_fixed(fixed or []))
    if data is None or out is None:
        _print_published(published.trials)
        if published.others:
            note(f"{published.others} other trials failed or were not finished")
        return
    _check_new_run(out, shots, resume)
    chosen = _chosen(file, published.trials, wanted)
    _print_published(chosen)
    bank = _bank_sizes(bank_sizes) or (None,)
    if len(bank) != 1:
        raise InputError(f"--bank-size is '{bank_sizes}', expected one")
    source = _source(data, OFA_MBV3, weights, recalibrate_batch_norm=recalibrate_bn)
    split = _split(source, shots, reserve, seed, protocol)
    supernet = _load_supernet(source, seed)
    space = _published_space(supernet, {"bank_sizes": bank})
    architectures = dict.fromkeys(replace(t.architecture, bank_size=bank[0]) for t in chosen)
    plan = Plan(
        space,
        evaluations=len(architectures),
        seed=seed,
        initial=tuple(architectures),
        cost="published_flops",
    )
    _search(out, split, source, supernet, plan, cache_gib=cache_gib, resume=resume)


def _print_published(trials: Sequence[PublishedTrial]) -> None:
    from autopatch.supernet import describe_stages

    table(
        f"{len(trials)} published architectures, with the figures stored there",
        ["architecture", "study", "trial", "published GFLOP", "published rwAP"],
        [
            [
                describe_stages(t.architecture),
                t.study,
                str(t.number),
                f"{t.flops / 1e9:.2f}",
                f"{100 * t.rwap:.1f}",
            ]
            for t in sorted(trials, key=lambda t: (t.study, t.flops, t.number))
        ],
    )


def _chosen(
    file: Path, trials: Sequence[PublishedTrial], wanted: Sequence[int | None] | None
) -> list[PublishedTrial]:
    studies = sorted({trial.study for trial in trials})
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


def _fixed(entries: Sequence[str]) -> dict[str, int | str]:
    values: dict[str, int | str] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if not name or not value:
            raise InputError(f"--fixed is '{entry}', expected a name and a value: kernel_size=7")
        values[name] = int(value) if value.isdigit() else value
    return values


@app.command()
def fit(
    run: RunFolder,
    trial: Annotated[
        int | None, typer.Option(help="Trial to fit; that of highest validation rwAP if absent.")
    ] = None,
    patchcore: Annotated[
        bool, typer.Option("--patchcore", help="Fit the PatchCore setting of the backbone instead.")
    ] = False,
    architecture: Annotated[
        Path | None, typer.Option(help="JSON file of an architecture to fit instead.")
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of good images that may be called anomalous.")
    ] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="File to write; RUN/detector.safetensors if absent.")
    ] = None,
) -> None:
    """Fits a searched detector on the good images and sets its threshold."""
    from autopatch.search.measurements import fit_detector, patchcore_setting
    from autopatch.search.run import DETECTOR, Run

    if (trial is not None) + patchcore + (architecture is not None) > 1:
        raise InputError("--trial, --patchcore and --architecture exclude one another")
    opened = Run.open(run)
    target = out or run / DETECTOR
    if target.exists():
        raise InputError(f"{target}: exists; remove it or give another --out")
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"--false-alarm-rate is {false_alarm_rate}, expected between 0 and 1")
    supernet = opened.load_supernet()
    if architecture is not None:
        chosen = _read_architecture(architecture)
    elif patchcore:
        setting = patchcore_setting(supernet, opened.split)
        if setting is None:
            raise InputError(f"--patchcore: {supernet.name} has no levels of stride 8 and 16")
        chosen = setting
    elif trial is not None:
        chosen = opened.trial(trial).architecture
    else:
        chosen = _pick(opened)
    with progress() as report:
        detector = fit_detector(
            opened, supernet, chosen, false_alarm_rate=false_alarm_rate, progress=report
        )
    detector.save(target)
    note(f"{supernet.describe(chosen)}; {detector.total_flops / 1e9:.2f} GFLOP an image")
    note(f"features: {supernet.provenance}")
    note(detector.threshold.describe())
    for line in opened.split.notes:
        note(f"  {line}")
    note(f"written: {target}")


@app.command()
def predict(
    detector: Annotated[Path, typer.Argument(help="File that `fit` wrote.", metavar="DETECTOR")],
    images: Annotated[list[Path], typer.Argument(help="Images or folders.", metavar="IMAGES...")],
    out: Annotated[Path, typer.Option(help="Folder to make for the results.")],
) -> None:
    """Segments images: overlays, raw maps, and a table of scores and verdicts."""
    from autopatch.cli.results import find_images, write_predictions
    from autopatch.detector import Detector

    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists, expected a new folder for the results")
    loaded = Detector.load(detector)
    found = find_images(images)
    note(f"features: {loaded.subnet.provenance}")
    with progress() as report:
        anomalous = write_predictions(loaded, found, out, progress=report)
    note(f"{anomalous} of {len(found)} images anomalous; {loaded.threshold.describe()}")
    note(f"written: {out}: scores.csv, overlays, maps")


@app.command()
def evaluate(
    run: RunFolder,
    detector: Annotated[
        Path | None,
        typer.Option(help="File that `fit` wrote; RUN/detector.safetensors if absent."),
    ] = None,
    cache_gib: CacheGib = 4.0,
) -> None:
    """Measures the fitted detector, the PatchCore setting and the front on the test part."""
    from autopatch.detector import Detector
    from autopatch.search.measurements import measure
    from autopatch.search.run import DETECTOR, Run

    opened = Run.open(run)
    file = detector or run / DETECTOR
    if not file.is_file():
        raise InputError(f"{file}: no such file; fit a detector first: autopatch fit {run}")
    loaded = Detector.load(file)
    note(f"features: {loaded.subnet.provenance}")
    with progress() as report:
        measurements = measure(opened, loaded, cache_bytes=_cache_bytes(cache_gib), progress=report)
    _print_measurements(opened, measurements)
    note(f"written: {measurements.save(opened)}")


def _print_measurements(run: Run, measurements: Measurements) -> None:
    shown = {"rwAP": "rwAP", "AP": "AP", "AUROC": "AUROC", "AUPRO": "AUPRO"}
    shown["image_AUROC"] = "image AUROC"
    anomalous = sum(sample.type != "good" for sample in run.split.test)
    titles = {"fitted": "fitted detector", "patchcore": "PatchCore setting"}
    table(
        f"Test part: {len(run.split.test) - anomalous} good and {anomalous} anomalous images",
        ["detector", *shown.values(), _gflop(run), "ms"],
        [
            [
                titles.get(row.kind, f"trial {row.trial}"),
                *(f"{100 * row.metrics[m]:.1f}" if m in row.metrics else "" for m in shown),
                f"{row.cost / 1e9:.2f}",
                "" if row.milliseconds is None else f"{row.milliseconds:.1f}",
            ]
            for row in measurements.rows
        ],
    )
    for row in measurements.rows:
        if row.kind in titles:
            note(f"{titles[row.kind]}: {row.label}")
    best = measurements.best_of_front
    note(f"pick of the search: trial {run.front.pick.number}")
    note(
        f"best of the front on the test part: trial {best.trial}, {best.label}; not attainable, "
        "chosen with the labels of the test part"
    )


@app.command()
def report(run: RunFolder) -> None:
    """Writes RUN/report: Pareto plot, table, best and worst cases."""
    from autopatch.cli.results import write_run_report
    from autopatch.search.run import Run

    opened = Run.open(run)
    with progress() as bar:
        page = write_run_report(opened, progress=bar)
    note(f"written: {page}")


@app.command(name="check-data")
def check_data(data: Data, group_regex: GroupRegex = None, groups: Groups = None) -> None:
    """Reads every image and mask of a folder and lists what is wrong."""
    from autopatch.data import MVTecAD, check

    dataset = MVTecAD.scan(data, group_regex=group_regex, groups_csv=groups)
    with console.status("reading images"):
        problems = check(dataset)
    for problem in problems:
        note(problem)
    if problems:
        raise InputError(f"{data}: {len(problems)} problems")
    counts = [("train/good", len(dataset.train))]
    for kind in ("good", *dataset.types):
        count = sum(sample.type == kind for sample in dataset.test)
        counts.append((f"test/{kind}", count))
    table(str(data), ["part", "images"], [[part, str(count)] for part, count in counts])
    if group_regex or groups:
        groups_found = {sample.group for sample in (*dataset.train, *dataset.test)}
        note(f"{len(groups_found)} groups")
    note("no problems found")


@app.command()
def info() -> None:
    """Prints versions, instruction sets, CUDA, threads and folders."""
    import importlib.metadata
    import platform

    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from autopatch import _C, __version__
    from autopatch.kernels import _library  # noqa: F401  (reads AUTOPATCH_ISA)
    from autopatch.supernet.official import cache_folder

    packages = ("torch", "timm", "numpy", "pymoo", "optuna")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    if not _C.cuda_built:
        cuda = "not built (no working nvcc was found at installation, or it was switched off)"
    elif torch.cuda.is_available():
        cuda = f"built, usable: {torch.cuda.get_device_name()}"
    else:
        cuda = "built, but no usable GPU"
    lines = {
        "autopatch": __version__,
        "Python": platform.python_version(),
        "packages": versions,
        "ISA detected": _C.detected_isa(),
        "ISA active": _C.active_isa(),
        "CUDA": cuda,
        "threads": str(torch.get_num_threads()),
        "cache folders": f"{HF_HUB_CACHE} (weights of timm's hub), {cache_folder()} (ofa_mbv3)",
    }
    for name, value in lines.items():
        note(f"{name + ':':14}{value}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("autopatch-demo"),
    evaluations: Annotated[int, typer.Option(help="Architectures to evaluate.")] = 24,
    space: Annotated[str, typer.Option(help="Search space.")] = "timm:tf_mobilenetv3_small_075",
    weights: Annotated[str, typer.Option(help="As for search.")] = "random",
) -> None:
    """Draws textured parts with defects and runs search, fit, evaluate, predict and report."""
    from autopatch.data import draw_textures

    if out.exists():
        raise InputError(f"{out}: exists; remove it or give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    data, run = out / "data", out / "run"
    out.mkdir()
    note(f"drawing textured parts into {data}")
    draw_textures(data)
    if weights == "random":
        note("the features of this demo are RANDOM: no weights were given, so expect poor figures")
    try:
        search(
            data,
            out=run,
            weights=weights,
            space=space,
            shots=2,
            evaluations=evaluations,
            image_sizes="128,224",
            bank_sizes="500,1000,2500",
        )
    except InputError:
        shutil.rmtree(out)  # so that the corrected command finds its place free
        raise
    fit(run)
    evaluate(run)
    report(run)
    predict(run / "detector.safetensors", [data / "test"], out=out / "predictions")
    note(f"look at {run / 'report' / 'report.html'} and {out / 'predictions' / 'overlays'}")


def _pick(run: Run) -> Architecture:
    trial = run.front.pick
    assert trial.evaluation is not None
    note(
        f"trial {trial.number}, of highest validation rwAP: "
        f"{100 * trial.evaluation.metrics['rwAP']:.1f}"
    )
    return trial.architecture


def _read_architecture(path: Path) -> Architecture:
    from autopatch.supernet import Architecture

    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    return Architecture.from_json(document)


def _print_front(run: Run, supernet: Supernet) -> None:
    front = run.front
    rows = []
    for trial in front.trials:
        assert trial.evaluation is not None
        metrics = trial.evaluation.metrics
        rows.append(
            [
                supernet.describe(trial.architecture),
                f"{trial.number}{' (pick)' if trial.number == front.pick.number else ''}",
                f"{trial.evaluation.cost / 1e9:.2f}",
                f"{100 * metrics['rwAP']:.1f}",
                f"{100 * metrics['AP']:.1f}",
            ]
        )
    features = "; RANDOM features" if supernet.random_features else ""
    table(
        f"Pareto front, validation part ({len(run.split.validation)} anomalous images){features}",
        ["architecture", "trial", _gflop(run), "rwAP", "AP"],
        rows,
    )


def _gflop(run: Run) -> str:
    """Heading of a column of costs."""
    return "published GFLOP" if run.cost == "published_flops" else "GFLOP"


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

    is_file = weights not in ("auto", "pretrained", "random")
    return Source(
        data=str(data.resolve()),
        supernet=space,
        weights=str(Path(weights).resolve()) if is_file else weights,
        weights_sha256=sha256(Path(weights)) if is_file else None,
        **other,
    )


def _load_supernet(source: Source, seed: int) -> Supernet:
    if source.weights != "auto":
        return source.load_supernet(seed=seed)
    with progress() as report:
        return source.load_supernet(seed=seed, progress=report)


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
    split = make_split(dataset, shots=shots, reserve=reserve, seed=seed, protocol=protocol)
    with console.status("reading images"):
        require_valid(dataset)
    return split


def _bank_sizes(text: str | None) -> tuple[int | None, ...] | None:
    from autopatch.detector import MAX_CORESET_SAMPLE

    sizes = _integers("--bank-sizes", text, everything=True)
    too_large = [size for size in sizes or () if size and size > MAX_CORESET_SAMPLE]
    if too_large:
        raise InputError(
            f"--bank-sizes holds {too_large[0]}, expected at most {MAX_CORESET_SAMPLE} or 'all'"
        )
    return sizes


def _describe_split(split: Split) -> str:
    anomalous = sum(sample.type != "good" for sample in split.test)
    return (
        f"{len(split.fit)} good images to fit, {len(split.holdout)} good and "
        f"{len(split.validation)} anomalous to search with, {len(split.calibration)} good for the "
        f"threshold; test part: {len(split.test) - anomalous} good, {anomalous} anomalous"
    )


def _cache_bytes(cache_gib: float) -> int:
    if not 0 <= cache_gib < 2**20:
        raise InputError(f"--cache-gib is {cache_gib}, expected 0 or more")
    return int(cache_gib * 2**30)


def _floats(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} is '{text}', expected numbers such as 0.5,0.5,0.5") from None
    if len(values) != 3:
        raise InputError(f"{name} is '{text}', expected three numbers")
    return values


def _integers(
    name: str, text: str | None, *, everything: bool = False
) -> tuple[int | None, ...] | None:
    if text is None:
        return None
    try:
        return tuple(
            None if everything and part.strip() == "all" else int(part) for part in text.split(",")
        )
    except ValueError:
        raise InputError(f"{name} is '{text}', expected whole numbers with commas") from None


def _json_object(name: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{name} is '{text}', expected a JSON object")
    return value
