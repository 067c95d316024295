"""The commands. Each imports what it needs when it is called, so that `--help` is quick."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopatch.cli.console import console, note, progress, table
from autopatch.cli.options import (
    CacheGib,
    Data,
    Device,
    GroupRegex,
    Groups,
    RunFolder,
    cache_bytes,
    usable_device,
)
from autopatch.cli.search import gflop, import_study, search
from autopatch.errors import InputError

if TYPE_CHECKING:
    from autopatch.search.measurements import Measurements
    from autopatch.search.run import Run
    from autopatch.supernet import Architecture

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds the detector that sees a factory's defects at the least cost.",
)

app.command()(search)


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
    device: Device = "cpu",
) -> None:
    """Fits a searched detector on the good images and sets its threshold."""
    from autopatch.search.measurements import fit_detector, patchcore_setting
    from autopatch.search.run import DETECTOR, Run

    if (trial is not None) + patchcore + (architecture is not None) > 1:
        raise InputError("--trial, --patchcore and --architecture exclude one another")
    where = usable_device(device)
    opened = Run.open(run)
    target = out or run / DETECTOR
    if target.exists():
        raise InputError(f"{target}: exists; remove it or give another --out")
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"--false-alarm-rate is {false_alarm_rate}, expected between 0 and 1")
    opened.require_same_images()
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
            opened,
            supernet,
            chosen,
            false_alarm_rate=false_alarm_rate,
            device=where,
            progress=report,
        )
    detector.save(target)
    note(
        f"{supernet.describe(chosen)}; {detector.total_flops / 1e9:.2f} GFLOP an image "
        "with the nearest neighbors"
    )
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
    device: Device = "cpu",
) -> None:
    """Segments images: overlays, raw maps, and a table of scores and verdicts."""
    from autopatch.cli.results import find_images, write_predictions
    from autopatch.detector import Detector

    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists, expected a new folder for the results")
    loaded = Detector.load(detector, device=usable_device(device))
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
    device: Device = "cpu",
) -> None:
    """Measures the fitted detector, the PatchCore setting and the front on the test part."""
    from autopatch.detector import Detector
    from autopatch.search.measurements import measure
    from autopatch.search.run import DETECTOR, Run

    opened = Run.open(run)
    file = detector or run / DETECTOR
    if not file.is_file():
        raise InputError(f"{file}: no such file; fit a detector first: autopatch fit {run}")
    loaded = Detector.load(file, device=usable_device(device))
    opened.require_same_images()
    note(f"features: {loaded.subnet.provenance}")
    with progress() as report:
        measurements = measure(opened, loaded, cache_bytes=cache_bytes(cache_gib), progress=report)
    _print_measurements(opened, measurements)
    note(f"written: {measurements.save(opened)}")


def _print_measurements(run: Run, measurements: Measurements) -> None:
    shown = {"rwAP": "rwAP", "AP": "AP", "AUROC": "AUROC", "AUPRO": "AUPRO"}
    shown["image_AUROC"] = "image AUROC"
    anomalous = sum(sample.type != "good" for sample in run.split.test)
    titles = {"fitted": "fitted detector", "patchcore": "PatchCore setting"}
    table(
        f"Test part: {len(run.split.test) - anomalous} good and {anomalous} anomalous images",
        ["detector", *shown.values(), gflop(run), "ms"],
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
def report(run: RunFolder, device: Device = "cpu") -> None:
    """Writes RUN/report: Pareto plot, table, best and worst cases."""
    from autopatch.cli.results import write_run_report
    from autopatch.search.run import Run

    opened = Run.open(run)
    opened.require_same_images()
    supernet = opened.load_supernet()
    note(f"features: {supernet.provenance}")
    with progress() as bar:
        page = write_run_report(opened, supernet, device=usable_device(device), progress=bar)
    note(f"written: {page}")


app.command(name="import-study")(import_study)


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
    space: Annotated[str, typer.Option(help="Search space.")] = "autopatch_s",
    weights: Annotated[str, typer.Option(help="As for search.")] = "auto",
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
        note("the features of this demo are RANDOM, so expect poor figures")
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
