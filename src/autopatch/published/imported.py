"""Evaluates the architectures of a published study on other images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autopatch.data import Dataset, Reading
from autopatch.detector import Architecture
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.genes import Choice
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.published.once_for_all import OFA_MBV3, PUBLISHED
from autopatch.published.space import published_space
from autopatch.published.studies import PublishedTrial, load_published
from autopatch.runs import (
    Machine,
    Run,
    SplitRequest,
    SupernetSource,
    check_new_run,
    load_inputs,
    own_seed,
    perform_search,
    require_shots,
)
from autopatch.search import RULES, Plan, Trial, compose_space, resolve_objectives


@dataclass(frozen=True)
class ImportedStudy:
    """Published trials and their evaluations on another data set.

    Attributes:
        run: The run with the evaluations.
        published: The published trials, with the bank size of the run.
    """

    run: Run
    published: tuple[PublishedTrial, ...]

    def pairs(self) -> list[tuple[PublishedTrial, Trial | None]]:
        """Each published trial with its trial in the run; None if that one failed."""
        here = {t.architecture: t for t in self.run.trials if t.evaluation is not None}
        return [(trial, here.get(trial.architecture)) for trial in self.published]


def import_study(
    file: StrPath,
    data: StrPath | Dataset,
    out: StrPath,
    *,
    study: str | None = None,
    trials: Sequence[int] | None = None,
    fixed: Mapping[str, Choice] | None = None,
    bank_size: int | None = None,
    weights: StrPath = "auto",
    shots: int = 1,
    seed: int = 0,
    split_seed: int | None = None,
    reserve: int = 4,
    protocol: str = "autopatch",
    legacy_order: StrPath | None = None,
    bit_depth: int | None = None,
    exif: str = "apply",
    mask_threshold: int | None = None,
    recalibrate_batch_norm: bool = False,
    cache_gib: float = 4.0,
    device: str | torch.device = "cpu",
    resume: bool = False,
    lock: bool = True,
    progress: Progress | None = None,
) -> ImportedStudy:
    """Evaluates the architectures of a published study on a data set.

    Args:
        file: Published study database (Optuna SQLite).
        data: Folder in the MVTec-AD layout, or a data set.
        out: Run folder to make for the evaluations.
        study: Name of the study; required if the file holds several.
        trials: Numbers of the trials to evaluate; None for all.
        fixed: Values of parameters that the study did not search, such as {"kernel_size": 7}.
        bank_size: Number of patches in the bank; None keeps all, as published.
        weights: "auto" for the published weights, a folder that holds them, or "random".
        shots: Validation images of each anomaly type, at least 1.
        seed: Seed of random weights; also of the split and the banks, unless they have their own.
        split_seed: Seed of the split; `seed` if None.
        reserve: Images of each anomaly type to keep out of the test set.
        protocol: Split protocol: "autopatch", as published, or "random".
        legacy_order: Text file with the names of the good images, in the order to use.
        bit_depth: See `run_search`.
        exif: See `run_search`.
        mask_threshold: See `run_search`.
        recalibrate_batch_norm: Whether batch norm of subnets is recalibrated on the good images.
        cache_gib: Memory for decoded images and feature maps that candidates share, in GiB.
        device: "cpu", "cuda" or "cuda:<number>".
        resume: Whether to continue the run in `out`.
        lock: See `run_search`.
        progress: Called after every trial.

    Raises:
        InputError: The file, an argument or an image is wrong, or the folder cannot be written.
        SearchError: Every trial failed.
        MachineError: See `autopatch.runs.run_search`.
    """
    out = Path(out)
    check_new_run(out, resume=resume)
    chosen = choose_trials(file, study=study, trials=trials, fixed=fixed)
    reading = Reading(bit_depth=bit_depth, exif=exif, mask_threshold=mask_threshold)
    machine = Machine(cache_gib, usable_device(device), lock=lock)
    source = SupernetSource.find(
        OFA_MBV3, weights, options={"recalibrate_batch_norm": recalibrate_batch_norm}
    )
    request = SplitRequest(
        shots=shots,
        reserve=reserve,
        seed=own_seed("split_seed", split_seed, seed),
        protocol=protocol,
        legacy_order=legacy_order,
    )
    inputs = load_inputs(data, request, source, seed=seed, reading=reading, progress=progress)
    published = tuple(
        replace(t, architecture=_with_bank(t.architecture, bank_size)) for t in chosen
    )
    architectures = tuple(dict.fromkeys(t.architecture for t in published))
    plan = Plan(
        compose_space(inputs.supernet, preset=PUBLISHED, choices={"bank_size": (bank_size,)}),
        evaluations=len(architectures),
        seed=seed,
        initial=architectures,
        rule=PUBLISHED.rule,
        objectives=resolve_objectives((PUBLISHED.cost, RULES[PUBLISHED.rule].quality)),
        settings={"imported": {"study": chosen[0].study, "trials": [t.number for t in chosen]}},
    )
    require_shots(plan.measured, inputs.split)
    run = perform_search(
        out,
        inputs,
        plan,
        PUBLISHED,
        machine=machine,
        resume=resume,
        progress=progress,
    )
    return ImportedStudy(run, published)


def choose_trials(
    file: StrPath,
    *,
    study: str | None = None,
    trials: Sequence[int] | None = None,
    fixed: Mapping[str, Choice] | None = None,
) -> list[PublishedTrial]:
    """Finished trials of one study in a file; see `import_study`.

    Raises:
        InputError: The file cannot be read, has several studies or no finished trial, or a trial in
            `trials` is missing.
    """
    file = Path(file)
    names = None if study is None else [study]
    found = load_published(file, published_space(), studies=names, fixed=fixed).trials
    studies = sorted({trial.study for trial in found})
    if not studies:
        raise InputError(f"{file}: holds no finished trial to evaluate")
    if len(studies) != 1:
        raise InputError(f"{file}: holds the studies {studies}; choose one with `study`")
    by_number = {trial.number: trial for trial in found}
    for number in trials or ():
        if number not in by_number:
            raise InputError(
                f"`trials`: study {studies[0]} has no finished trial {number}, expected "
                f"one of {', '.join(map(str, by_number))}"
            )
    return [trial for trial in found if trials is None or trial.number in trials]


def _with_bank(architecture: Architecture, bank_size: int | None) -> Architecture:
    return replace(architecture, head=replace(architecture.head, bank_size=bank_size))
