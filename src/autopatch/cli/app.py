"""The commands. Each imports its modules when it runs, so that `--help` is fast."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autopatch.cli.arguments import Command
from autopatch.cli.console import console, failure, note, prepare, progress, table
from autopatch.cli.fit import fit
from autopatch.cli.latency import measure_latency
from autopatch.cli.options import (
    BitDepth,
    CacheGib,
    Data,
    Device,
    Exif,
    GroupRegex,
    Groups,
    MaskThreshold,
    MovedData,
    MovedWeights,
    RunFolder,
)
from autopatch.cli.published import import_study
from autopatch.cli.search import search, search_outcome
from autopatch.cli.synthesize import synthesize
from autopatch.cli.tables import print_front, print_results
from autopatch.errors import InputError

FittedDetector = Annotated[
    Path | None,
    typer.Option(
        "--detector", help="File of a fitted detector; default: RUN/detector.safetensors."
    ),
]


class _Commands(TyperGroup):
    """The group of commands; reports an interruption in one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            failure("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    callback=prepare,
    help="Finds the best anomaly detectors for your parts, by quality and cost.",
)

command = partial(app.command, cls=Command)

command()(search)
command()(fit)


@command()
def update(
    detector: Annotated[Path, typer.Argument(help="File written by `fit`.", metavar="DETECTOR")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    defects: Annotated[
        Path | None,
        typer.Option(
            help="Folder with images of defects, and their masks beside them (NAME.png, "
            "NAME_mask.png)."
        ),
    ] = None,
    good: Annotated[
        list[Path] | None,
        typer.Option(help="Good image, or folder of good images; may be given several times."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="Name of a known image to remove; may be given several times."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Adds defects that were missed, and good parts that were called anomalous, to a detector.

    The threshold is set anew. Images that were added can be removed again.
    """
    from autopatch.runs import update_detector

    with progress() as report:
        updated = update_detector(
            detector,
            out,
            defects=defects,
            good=good or (),
            remove=remove or (),
            device=device,
            progress=report,
        )
    for image in updated.known:
        note(f"known: {image.name}")
    note(updated.describe_known())
    note(updated.threshold.describe())
    note(f"written: {out}")


@command()
def predict(
    detector: Annotated[Path, typer.Argument(help="File written by `fit`.", metavar="DETECTOR")],
    images: Annotated[
        list[Path], typer.Argument(help="Image files or folders.", metavar="IMAGES...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to create for the results.")],
    device: Device = "cpu",
) -> None:
    """Finds anomalies in images; writes masks, overlays, raw maps and a table of scores.

    Images that cannot be read do not stop the others, but the exit code is then 2.
    """
    from autopatch.runs import write_predictions

    with progress() as report:
        written = write_predictions(detector, images, out, device=device, progress=report)
    note(f"backbone: {written.weights}")
    note(f"{written.anomalous} of {written.images} images anomalous; {written.threshold}")
    note(f"written: {written.folder}: scores.csv, overlays, masks, maps")
    if written.unreadable:
        first, count = written.unreadable[0], len(written.unreadable)
        failure(
            f"{count} of {count + written.images} images cannot be read, the first: "
            f"{first.path}: {first.reason}"
        )
        raise typer.Exit(2)


@command()
def evaluate(
    run: RunFolder,
    detector: FittedDetector = None,
    data: MovedData = None,
    weights: MovedWeights = None,
    cache_gib: CacheGib = 4.0,
    device: Device = "cpu",
) -> None:
    """Measures the fitted detector, the PatchCore baseline and the front on the test images."""
    from autopatch.runs import Run

    opened = Run.open(run, data=data, weights=weights)
    with progress() as report:
        results = opened.evaluate(detector, cache_gib=cache_gib, device=device, progress=report)
    print_results(opened, results)
    note(f"written: {opened.results_path}")


@command()
def report(
    run: RunFolder,
    detector: FittedDetector = None,
    data: MovedData = None,
    weights: MovedWeights = None,
    device: Device = "cpu",
) -> None:
    """Writes RUN/report: Pareto plot, tables, best and worst images."""
    from autopatch.runs import Run

    opened = Run.open(run, data=data, weights=weights)
    with progress() as bar:
        page = opened.report(detector, device=device, progress=bar)
    note(f"backbone: {opened.supernet.provenance}")
    note(f"written: {page}")


command(name="import-study")(import_study)
command(name="measure-latency")(measure_latency)
command()(synthesize)


@command(name="check-data")
def check_data(
    data: Data,
    group_regex: GroupRegex = None,
    groups: Groups = None,
    bit_depth: BitDepth = None,
    exif: Exif = "apply",
    mask_threshold: MaskThreshold = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Compare the good images, and list those that may show defects."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file to write: the images that --deep found, with anomaly maps."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Reads every image and mask of a data set and lists all problems."""
    from autopatch.data import Reading, check_folder
    from autopatch.words import counted

    if out is not None and not deep:
        raise InputError("`out` is given without `deep`, which makes the picture; expected both")
    reading = Reading(bit_depth=bit_depth, exif=exif, mask_threshold=mask_threshold)
    with console.status("reading images"):
        checked = check_folder(data, group_regex=group_regex, groups=groups, reading=reading)
    for line in (*checked.findings.warnings, *checked.findings.problems):
        note(line)
    if checked.findings.problems:
        raise InputError(f"{data}: {counted(len(checked.findings.problems), 'problem')}")
    areas = {f"test/{kind}": areas for kind, areas in checked.findings.areas.items()}
    rows = [
        [part, str(count), areas[part].describe() if part in areas else ""]
        for part, count in checked.counts.items()
    ]
    table(str(data), ["folder", "images", "anomalous area: median (range)"], rows)
    note(f"bit depth: {checked.findings.reading.bit_depth}")
    if group_regex or groups:
        note(f"{checked.groups} groups")
    note(f"no problems, {counted(len(checked.findings.warnings), 'warning')}")
    if not deep:
        return
    from autopatch.runs import check_deep

    with progress() as report:
        compared = check_deep(
            data,
            out,
            group_regex=group_regex,
            groups=groups,
            reading=checked.findings.reading,
            device=device,
            progress=report,
        )
    for line in compared.lines():
        note(line)
    if compared.picture is not None:
        note(f"written: {compared.picture}")


@command()
def info() -> None:
    """Prints versions, instruction sets, CUDA, threads and cache folders."""
    from autopatch.runs import system_info

    for name, value in system_info().items():
        note(f"{name + ':':14}{value}")


@command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to create.")] = Path("autopatch-demo"),
    evaluations: Annotated[int, typer.Option(help="Number of architectures to evaluate.")] = 24,
    space: Annotated[str, typer.Option(help="Search space.")] = "autopatch_s",
    weights: Annotated[str, typer.Option(help="Weights, as for search.")] = "auto",
) -> None:
    """Draws textured parts with defects, then runs search, fit, evaluate, report and predict on
    them."""
    from autopatch.runs import TestResults, run_demo

    with search_outcome(out), progress() as bar:
        run = run_demo(out, evaluations=evaluations, space=space, weights=weights, progress=bar)
    print_front(run)
    results = TestResults.load(run.path)
    assert results is not None
    print_results(run, results)
    note(f"see {run.report_path} and {out / 'predictions' / 'overlays'}")
