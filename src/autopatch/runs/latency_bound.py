"""The latency in a search: its table, and the bound on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from autopatch.detector import Architecture, Detector, patchcore_architecture
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.progress import Progress
from autopatch.runs.folder import STUDY
from autopatch.runs.source import Inputs
from autopatch.search import (
    Constraint,
    LatencyTable,
    Objective,
    SearchSpace,
    load_settings,
    measure_table,
)
from autopatch.search.candidates import candidate_of
from autopatch.search.latency import LatencyLimit
from autopatch.search.objectives import LATENCY
from autopatch.search.study import stored_table

logger = logging.getLogger(__name__)

LATENCY_FACTOR = 4.0
"""Default bound on the latency, in multiples of the PatchCore baseline."""

_SAME_BOUND = 0.01  # relative difference of bounds that are the same

_DRAWS = 5_000  # random architectures, until none is thought to meet the bound


def check_factor(factor: float | None, constraints: Mapping[str, float]) -> None:
    """Raises InputError if a bound relative to the PatchCore baseline is out of its range, or
    another bound is given too."""
    if factor is None:
        return
    if LATENCY.name in constraints:
        raise InputError("`latency_factor` is given, but `constraints` bound the latency already")
    if not factor > 0:
        raise InputError(f"`latency_factor` is {factor}, expected a number above 0")


def read_table(table: StrPath | LatencyTable | None) -> LatencyTable | None:
    """The table of an argument of `run_search`.

    Raises:
        InputError: The file is not a table.
    """
    return table if table is None or isinstance(table, LatencyTable) else LatencyTable.load(table)


def find_table(
    run: Path,
    inputs: Inputs,
    space: SearchSpace,
    *,
    given: LatencyTable | None,
    resume: bool,
    device: torch.device | str,
    batch: int,
    progress: Progress | None,
) -> LatencyTable:
    """The table of a search: the given one, that of the search that is resumed, or one that is
    measured now.

    Raises:
        InputError: It does not fit the search, or the resumed search has none.
    """
    if given is None and resume:
        stored = stored_table(load_settings(run / STUDY))
        if stored is None:
            raise InputError(
                f"{run}: the search was started without a latency, cannot resume with one"
            )
        stored.require_batch(batch, str(run))
        table = stored
    else:
        split = inputs.split
        table = given or measure_table(
            inputs.supernet,
            space,
            good=[sample.image for sample in split.fit],
            queries=[sample.image for sample in (*split.holdout, *split.validation)],
            device=device,
            batch=batch,
            reading=inputs.findings.reading,
            progress=progress,
        )
        table.require(inputs.supernet, space, batch, "`latency_table`")
    logger.info("latency: %s", table.describe())
    return table


def with_latency_bound(
    constraints: tuple[Constraint, ...],
    factor: float | None,
    objectives: Sequence[Objective],
    table: LatencyTable,
    inputs: Inputs,
    resumed: Path | None,
    *,
    device: torch.device | str,
    progress: Progress | None,
) -> tuple[Constraint, ...]:
    """The constraints of a search, with one on the latency relative to the PatchCore baseline if it
    is due; see `run_search`. A resumed search keeps its bound if no other one is asked for.

    Raises:
        InputError: A factor is given, but the backbone has no PatchCore baseline.
    """
    if any(constraint.objective == LATENCY for constraint in constraints):
        return constraints
    stored: list[Constraint] = []
    if resumed is not None:
        every = map(Constraint.from_json, load_settings(resumed / STUDY)["constraints"])
        stored = [bound for bound in every if bound.objective == LATENCY]
    if factor is None and resumed is not None:
        return (*constraints, *stored)
    if factor is None and LATENCY not in objectives:
        return constraints
    if factor is not None and math.isinf(factor):
        return constraints
    baseline = patchcore_architecture(inputs.supernet, images=len(inputs.split.good))
    if baseline is None:
        if factor is not None:
            raise InputError(
                f"`latency_factor` is {factor:g}, but {inputs.supernet.name} has no PatchCore "
                "baseline to compare with; give the bound in seconds"
            )
        logger.info("no bound on the latency, since the backbone has no PatchCore baseline")
        return constraints
    factor = LATENCY_FACTOR if factor is None else factor
    seconds = _seconds(baseline, table, inputs, device, progress)
    logger.info(
        "detectors take at most %.1f ms per image, %g times the PatchCore baseline (%.1f ms)",
        1e3 * factor * seconds,
        factor,
        1e3 * seconds,
    )
    bound = Constraint(LATENCY, factor * seconds)
    for earlier in stored:  # counts may differ in the last digits on another machine
        if math.isclose(earlier.bound, bound.bound, rel_tol=_SAME_BOUND):
            bound = earlier
    return (*constraints, bound)


def _seconds(
    architecture: Architecture,
    table: LatencyTable,
    inputs: Inputs,
    device: torch.device | str,
    progress: Progress | None,
) -> float:
    """Seconds per image of an architecture, fitted to the good images of a search."""
    split = inputs.split
    detector = Detector.fit(
        [sample.image for sample in split.fit],
        supernet=inputs.supernet,
        architecture=architecture,
        calibration=[sample.image for sample in split.holdout],
        reading=inputs.findings.reading,
        warn=False,  # the search warns about these images
        device=device,
        progress=progress,
    )
    return LATENCY.measure(
        candidate_of(detector, inputs.supernet, split.holdout, metrics={}, latency_table=table)
    )


def without_slow(
    space: SearchSpace, constraints: Sequence[Constraint], table: LatencyTable, inputs: Inputs
) -> SearchSpace:
    """The space, allowing only architectures that are not known to be too slow.

    Raises:
        InputError: Random architectures are all too slow.
    """
    for bound in constraints:
        if bound.objective == LATENCY:
            limit = _limit(bound.bound, table, inputs)
            rng, least = np.random.default_rng(0), math.inf
            for _ in range(_DRAWS):
                least = min(least, limit.seconds(space.decode(space.sample(rng))))
                if least <= bound.bound:
                    return replace(space, allows=limit)
            raise InputError(
                f"{bound.describe()}: expected a higher bound, since the fastest of {_DRAWS:,} "
                f"random architectures takes at least {1e3 * least:.2f} ms"
            )
    return space


def _limit(seconds: float, table: LatencyTable, inputs: Inputs) -> LatencyLimit:
    return LatencyLimit(table, inputs.supernet, images=len(inputs.split.fit), seconds=seconds)
