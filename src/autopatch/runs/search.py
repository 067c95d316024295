"""Runs a search on a folder of images and writes its run folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopatch.data import Dataset, Reading, Split
from autopatch.data.synthetic import kinds_to_draw
from autopatch.detector import DEFAULT_DEFECT_WEIGHT
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.genes import Choice
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.runs.folder import PER_KIND, Drawing, open_search, require_new, require_resumable
from autopatch.runs.initial import initial_architectures
from autopatch.runs.latency import check_batch, find_preset, find_space
from autopatch.runs.latency_bound import (
    check_factor,
    find_table,
    read_table,
    with_latency_bound,
    without_slow,
)
from autopatch.runs.run import Run, cache_bytes
from autopatch.runs.source import Inputs, SplitRequest, SupernetSource, load_inputs, own_seed
from autopatch.search import (
    RULES,
    CandidateEvaluator,
    Constraint,
    LatencyTable,
    Objective,
    Plan,
    SearchSpace,
    Trial,
    can_be_left_out,
    check_settings,
    failed_candidates,
    resolve_constraints,
    resolve_objectives,
    search,
)
from autopatch.search.objectives import IMAGE_AUROC, ROBUST_IMAGE_AUROC, ROBUST_RWAP
from autopatch.supernet import DEFAULT_SPACE, Preset

logger = logging.getLogger(__name__)

_DRAWS = 200  # random architectures that show which image sizes the search may come to
_QUIET_SECONDS = 5.0  # after this time, the progress within a candidate is reported


@dataclass(frozen=True)
class Machine:
    """How candidates are evaluated. None of this changes the results, except that another device
    may round the last digits differently.

    Attributes:
        cache_gib: Memory for decoded images and feature maps that candidates share, in GiB.
        device: "cpu", "cuda" or "cuda:<number>".
        executor: Evaluates the candidates; None to evaluate them one by one in this process.
        workers: Number of candidates submitted to the executor at a time; more than one has an
            effect with the sampler "nsga2" only.
        lock: Whether to lock the run folder, so that only one process searches in it.

    Raises:
        InputError: `workers` is not positive, or `cache_gib` is out of its range.
    """

    cache_gib: float = 4.0
    device: str | torch.device = "cpu"
    executor: Executor | None = None
    workers: int = 1
    lock: bool = True

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"`workers` is {self.workers}, expected at least 1")
        cache_bytes(self.cache_gib)  # refuses a value out of its range


def run_search(
    data: StrPath | Dataset,
    out: StrPath,
    *,
    space: str = DEFAULT_SPACE,
    weights: StrPath = "auto",
    preset: str = "default",
    sampler: str = "gp",
    rule: str | None = None,
    cost: str | None = None,
    objectives: Sequence[str] | None = None,
    constraints: Mapping[str, float] | None = None,
    latency_factor: float | None = None,
    min_image_auroc: float | None = None,
    latency_table: StrPath | LatencyTable | None = None,
    batch: int = 1,
    choices: Mapping[str, Sequence[Choice]] | None = None,
    fixed: Mapping[str, Choice] | None = None,
    shots: int | None = None,
    kinds: Sequence[str] | None = None,
    per_kind: int = PER_KIND,
    evaluations: int = 100,
    seed: int = 0,
    split_seed: int | None = None,
    population: int = 12,
    reserve: int = 4,
    protocol: str = "random",
    group_regex: str | None = None,
    groups: StrPath | None = None,
    legacy_order: StrPath | None = None,
    bit_depth: int | None = None,
    exif: str = "apply",
    mask_threshold: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    space_options: Mapping[str, Any] | None = None,
    cache_gib: float = 4.0,
    device: str | torch.device = "cpu",
    executor: Executor | None = None,
    workers: int = 1,
    resume: bool = False,
    lock: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Searches a space for the detectors with the best trade-offs of cost and quality.

    Notes and warnings go to the logger "autopatch".

    Args:
        data: Folder in the MVTec-AD layout, or a data set.
        out: Run folder to create.
        space: Search space: "autopatch_s", "timm:<model name>", "elastic:<model name>", "ofa_mbv3",
            one of its networks, or a registered one.
        weights: See `load_supernet`.
        preset: "default", or another preset of the space, such as "published" of "ofa_mbv3".
        sampler: The optimizer: "gp", "nsga2", or "tpe" as in the published search.
        rule: How candidates are judged, and which one is picked: "robust", by synthetic anomalies
            and shots; "knee", the best trade-off of cost and the same quality; "best", by shots
            alone as published; or a registered rule. If None, the preset's rule, "robust" by
            default.
        cost: Name of the registered objective that is the cost. If None, the preset's cost, the
            latency by default.
        objectives: Names of registered objectives instead of the cost and the quality of the rule;
            the first is the cost, the last the quality.
        constraints: Bounds by name of a registered objective, such as {"latency": 0.01, "memory":
            32e6, "image_AUROC": 0.9}, in seconds, bytes and shares of 1: upper bounds of what is
            minimized, lower bounds of what is maximized. Candidates that violate one are recorded,
            but are neither on the front nor picked while another meets all. Candidates that the
            latency table shows to be too slow are not even fitted.
        latency_factor: Bound on the latency, in multiples of that of the PatchCore baseline, if
            `constraints` have none; math.inf for no bound. If None, it is 4 in a new search whose
            objectives include the latency, there is none in others, and a resumed search keeps its
            bound.
        min_image_auroc: Lower bound, 0 to 1, on the image AUROC that the rule knows: of synthetic
            anomalies and shots together, or of the shots alone if the rule is "best".
        latency_table: Table of `measure_latency`, or its file, if an objective or a constraint is
            the latency; it may come from another machine. If None, the table is measured on this
            machine before the search. The record stores it.
        batch: Images per batch whose latency counts.
        choices: Choices by field ("image_size", "patch_size", "bank_size", or a step of the head).
            They replace the preset's choices.
        fixed: Fixed values by gene, or by field for all of its genes.
        shots: Validation images of each anomaly type; 0 for synthetic anomalies alone. If None, 1
            if the data set has anomalous images, else 0.
        kinds: Kinds of synthetic anomalies, names in `autopatch.data.KINDS`; all if None.
        per_kind: Number of synthetic anomalies of each kind.
        evaluations: Number of architectures to evaluate.
        seed: Seed of the optimizer and of random weights; by default also of the split.
        split_seed: Seed of the split; `seed` if None.
        population: Architectures per generation of "nsga2". A search also ends if so many
            candidates fail at its start.
        reserve: Images of each anomaly type that are never in the test set.
        protocol: How to split: "random", or "autopatch" as published.
        group_regex: Regular expression for file names. Images with the same first match group stay
            together in the split.
        groups: CSV file with the columns file,group. Images of a group stay together in the split.
        legacy_order: Text file with the names of the good images in order, for the protocol
            "autopatch".
        bit_depth: Bits per value of 16-bit images: 8, 10, 12, 14 or 16. If None, the smallest depth
            that holds the values of the fit images. See `Reading`.
        exif: "apply" rotates images and masks by their EXIF orientation, "ignore" does not.
        mask_threshold: Mask pixels above this value are anomalous. If None, masks must hold only
            black and one other value.
        mean: Channel means of the input; needed if the weights file has none.
        std: Channel standard deviations; needed if the weights file has none.
        space_options: Options of the space's family by name, see `load_supernet`: `timm_kwargs`, or
            `recalibrate_batch_norm` for "ofa_mbv3".
        cache_gib: Memory for decoded images and feature maps that candidates share, in GiB.
        device: "cpu", "cuda" or "cuda:<number>". Images are always read on the CPU.
        executor: Evaluates the candidates in threads, which share the feature maps. If None, they
            are evaluated one by one in this process.
        workers: Number of candidates submitted to the executor at a time; more than one has an
            effect with the sampler "nsga2" only.
        resume: Whether to continue the search in `out`. The result is the same as without the
            interruption.
        lock: Whether to lock `out` while searching. Use False on a file system without locks, and
            make sure that only one process searches in `out`.
        progress: Called after every candidate, and during long ones.

    Returns:
        The finished search.

    Raises:
        InputError: An argument, an image or a file is wrong, or the folder exists or cannot be
            written.
        SearchError: Every candidate failed.
        MachineError: The device failed, or candidates in a row ran out of memory; see
            `autopatch.search.search`.
    """
    out = Path(out)
    check_new_run(out, resume=resume, lock=lock)
    check_settings(evaluations, seed, population, sampler, rule)
    drawing = Drawing(own_seed("split_seed", split_seed, seed), per_kind, kinds)
    check_batch(batch)
    if objectives is not None and cost is not None:
        raise InputError("`cost` and `objectives` are both given, expected at most one")
    resolve_objectives([*(objectives or ()), *([cost] if cost else ())] or ["rwAP"])
    bounds = resolve_constraints(constraints or {})
    check_factor(latency_factor, constraints or {})
    given_table = read_table(latency_table)
    reading = Reading(bit_depth=bit_depth, exif=exif, mask_threshold=mask_threshold)
    machine = Machine(cache_gib, usable_device(device), executor, workers, lock)
    source = SupernetSource.find(
        space,
        weights,
        mean=mean,
        std=std,
        options=space_options,
    )
    request = SplitRequest(
        shots=shots,
        reserve=reserve,
        seed=drawing.seed,
        protocol=protocol,
        group_regex=group_regex,
        groups=groups,
        legacy_order=legacy_order,
    )
    inputs = load_inputs(data, request, source, seed=seed, reading=reading, progress=progress)
    supernet = inputs.supernet
    searched = find_preset(supernet, preset)
    search_space = find_space(
        supernet, searched, _judged(choices, fixed, searched, inputs.split), fixed
    )
    rule = rule or searched.rule
    chosen = resolve_objectives(objectives or (cost or searched.cost, RULES[rule].quality))
    if min_image_auroc is not None:
        bounds = (*bounds, _auroc_bound(rule, min_image_auroc, bounds))
    measured = (*chosen, *(bound.objective for bound in bounds))
    require_shots(measured, inputs.split)
    draws = any(objective.needs_synthetic for objective in measured)
    if draws:
        kinds_to_draw(kinds, inputs.split.validation)  # refuses kinds before anything takes long
    elif kinds is not None:
        raise InputError(
            f"`kinds` is given, but the search draws no synthetic anomalies (`rule` is {rule!r})"
        )
    table = None
    is_bounded = latency_factor is not None and not math.isinf(latency_factor)
    if is_bounded or any(objective.needs_latency_table for objective in measured):
        table = find_table(
            out,
            inputs,
            search_space,
            given=given_table,
            resume=resume,
            device=machine.device,
            batch=batch,
            progress=progress,
        )
        bounds = with_latency_bound(
            bounds,
            latency_factor,
            chosen,
            table,
            inputs,
            out if resume else None,
            device=machine.device,
            progress=progress,
        )
        search_space = without_slow(search_space, bounds, table, inputs)
    elif given_table is not None:
        raise InputError("`latency_table` is given, but nothing in the search is a latency")
    first = initial_architectures(search_space, inputs) if searched.from_baseline else ()
    if sampler != "gp":
        first = first[:1]  # other optimizers gain nothing from the variants
    plan = Plan(
        search_space,
        evaluations=evaluations,
        seed=seed,
        population=population,
        initial=first,
        sampler=sampler,
        rule=rule,
        objectives=chosen,
        constraints=bounds,
        latency_table=table,
    )
    return perform_search(
        out,
        inputs,
        plan,
        searched,
        drawing=drawing if draws else None,
        machine=machine,
        resume=resume,
        progress=progress,
    )


def _auroc_bound(rule: str, bound: float, others: Iterable[Constraint]) -> Constraint:
    """The bound `min_image_auroc` of `run_search`."""
    objective = ROBUST_IMAGE_AUROC if RULES[rule].quality == ROBUST_RWAP.name else IMAGE_AUROC
    if not 0 <= bound <= 1:
        raise InputError(f"`min_image_auroc` is {bound}, expected 0 to 1")
    if any(other.name == objective.name for other in others):
        raise InputError(
            f"`min_image_auroc` is given, but `constraints` bound {objective.name} already"
        )
    return Constraint(objective, bound)


def perform_search(
    out: StrPath,
    inputs: Inputs,
    plan: Plan,
    preset: Preset,
    *,
    drawing: Drawing | None = None,
    machine: Machine,
    resume: bool,
    progress: Progress | None,
) -> Run:
    """Runs the search of a plan in a run folder.

    Args:
        out: The folder.
        inputs: Images and backbones.
        plan: Settings of the search.
        preset: The preset of the space.
        drawing: The synthetic anomalies to draw; None for none.
        machine: How to evaluate candidates.
        resume: Whether to continue the search in the folder.
        progress: Called after every candidate.

    Raises:
        InputError: See `run_search`.
        SearchError: Every candidate failed.
        MachineError: See `run_search`.
    """
    out = Path(out)
    space, split, supernet = plan.space, inputs.split, inputs.supernet
    if preset.mask_resize is not None:
        reading = replace(inputs.findings.reading, mask_resize=preset.mask_resize)
        inputs = replace(inputs, findings=replace(inputs.findings, reading=reading))
    logger.info("%s: %s", inputs.root, _describe_split(split))
    if inputs.findings.areas:
        logger.info("  %s", inputs.findings.describe_areas())
    for line in split.notes:
        logger.info("  %s", line)
    logger.info("%s: %s; %s architectures", supernet.name, supernet.provenance, f"{space.size():,}")
    for line in preset.remarks(space.fixed, plan.sampler):
        logger.info(line)
    told = _SearchProgress(progress)
    with open_search(
        out, inputs, plan, drawing=drawing, resume=resume, lock=machine.lock, progress=progress
    ) as (study, synthetic):
        evaluator = CandidateEvaluator(
            supernet,
            fit=split.fit,
            scored=(*split.holdout, *split.validation),
            objectives=plan.objectives,
            constraints=plan.constraints,
            latency_table=plan.latency_table,
            shots=split.validation,
            held_out=split.holdout,
            synthetic=synthetic,
            cache_bytes=cache_bytes(machine.cache_gib),
            reading=inputs.findings.reading,
            device=machine.device,
            progress=told.candidate,
        )
        _warn_of_large_maps(evaluator, space, machine.cache_gib)
        told.start(sum(trial.counts for trial in study.trials()), plan.total)
        front = search(
            evaluator,
            study,
            progress=told.trial,
            executor=machine.executor,
            workers=machine.workers,
        )
        failed = failed_candidates(study.trials())
    if front.note:
        logger.info(front.note)
    if len(failed) == 1:
        logger.warning("1 candidate failed: %s", failed[0].reason)
    elif failed:
        logger.warning("%d candidates failed, the first: %s", len(failed), failed[0].reason)
    run = Run.open(out, data=inputs.root, weights=inputs.source.file)
    vars(run)["supernet"] = supernet  # so that it is not loaded again
    return run


def require_shots(measured: Sequence[Objective], split: Split) -> None:
    """Raises InputError if an objective needs anomalous images and the search has none."""
    for objective in measured:
        if objective.needs_shots and not split.validation:
            raise InputError(
                f"`shots` is {split.shots}, so the search has no anomalous images, but it measures "
                f"{objective.name}, which needs them; expected at least 1 shot, or `rule` 'robust'"
            )


def check_new_run(out: StrPath, *, resume: bool, lock: bool = True) -> None:
    """Checks that a search can start, before any image is read.

    Args:
        out: Its run folder.
        resume: Whether the folder exists and its search is resumed.
        lock: Whether the search will lock the folder.

    Raises:
        InputError: A new folder exists already, a resumed one has no search or is in use, or the
            folder cannot be written.
    """
    if resume:
        require_resumable(Path(out), lock=lock)
    else:
        require_new(Path(out))


def _judged(
    choices: Mapping[str, Sequence[Choice]] | None,
    fixed: Mapping[str, Choice] | None,
    preset: Preset,
    split: Split,
) -> Mapping[str, Sequence[Choice]] | None:
    """The choices without the weight of known defects, if there are no shots, or if they cannot
    tell what it is worth.

    A shot is scored by a detector that knows the other shots. If there is no other one, the weight
    has its usual value, because known defects are worth more than none.
    """
    given = {**(choices or {}), **(fixed or {})}
    if preset.optional_genes and "defects" not in given and not split.validation:
        return {**(choices or {}), "defects": (None,)}
    if not preset.optional_genes or "defects" in given or can_be_left_out(split.validation):
        return choices
    logger.info(
        "with a single anomalous image to search with, the weight of known defects cannot be "
        "searched; it is %g",
        DEFAULT_DEFECT_WEIGHT,
    )
    return {**(choices or {}), "defects": (DEFAULT_DEFECT_WEIGHT,)}


def _warn_of_large_maps(
    evaluator: CandidateEvaluator, space: SearchSpace, cache_gib: float
) -> None:
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(_DRAWS)]
    allowed = [space.decode(genome) for genome in drawn if space.is_allowed(genome)]
    of_each_size = {architecture.input.size: architecture for architecture in allowed}
    for size, needed in sorted(evaluator.too_large_to_keep(of_each_size.values()).items()):
        logger.info(
            "feature maps at %d px need %.1f GiB, more than `cache_gib` %g: they are recomputed "
            "for each candidate",
            size,
            needed / 2**30,
            cache_gib,
        )


def _describe_split(split: Split) -> str:
    anomalous = sum(sample.label for sample in split.test)
    calibration = f", {len(split.calibration)} good for the threshold" if split.calibration else ""
    return (
        f"{len(split.fit)} good images to fit, {len(split.holdout)} good and "
        f"{len(split.validation)} anomalous to search with{calibration}; test set: "
        f"{len(split.test) - anomalous} good, {anomalous} anomalous"
    )


class _SearchProgress:
    """Reports the progress of the search and, within slow candidates, of their steps."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._began: float | None = None

    def start(self, done: int, total: int) -> None:
        self._began = time.monotonic()
        if self._progress is not None:
            self._progress("search", done, total)

    def trial(self, done: int, total: int, trial: Trial, front: int) -> None:
        self._began = time.monotonic()
        if self._progress is not None:
            self._progress(f"search: front of {front}", done, total)

    def candidate(self, step: str, done: int, total: int) -> None:
        if self._progress is None or self._began is None:
            return
        if time.monotonic() - self._began > _QUIET_SECONDS:
            self._progress(f"candidate: {step}", done, total)
