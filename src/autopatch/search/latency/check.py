"""Checks a latency table: random candidates are fitted and timed whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from dataclasses import replace

import numpy as np
import torch

from autopatch.data import DEFAULT_READING
from autopatch.detector import (
    Architecture,
    Detector,
    calibrate,
    feature_maps,
    fit_head,
    stack_maps,
)
from autopatch.search.latency.bench import Bench
from autopatch.search.latency.components import Case
from autopatch.search.latency.table import LatencyTable, TimedCandidate
from autopatch.supernet import Backbone, Subnet

CANDIDATES = 20
"""Number of candidates that a check times."""

_PATCHES = 20_000  # about as many patches of good images does a check fit a bank on
_SEED = 1


def timed_whole(
    table: LatencyTable,
    bench: Bench,
    *,
    candidates: int = CANDIDATES,
    told: Callable[[int], None] | None = None,
) -> tuple[TimedCandidate, ...]:
    """Fits random candidates of the space and times `Detector.forward` on them, alternately.

    Args:
        table: The table to check.
        bench: Images, and how they are timed.
        candidates: Number of candidates.
        told: Called after every fitted candidate with the number done.

    Returns:
        The candidates, in the order in which they were drawn.
    """
    space = bench.space
    rng = np.random.default_rng(_SEED)
    drawn: dict[tuple[int, ...], None] = {}
    for _ in range(100 * candidates):
        if len(drawn) < min(candidates, space.size()):
            drawn[space.sample(rng)] = None
    architectures = [space.decode(genome) for genome in drawn]
    detectors = []
    for number, architecture in enumerate(architectures):
        detectors.append(_fitted(architecture, bench))
        if told is not None:
            told(number + 1)
    medians = bench.time([_forward(detector, bench) for detector in detectors])
    found = []
    for detector, architecture, (seconds,) in zip(detectors, architectures, medians, strict=True):
        case = Case(bench.supernet, architecture, (len(detector.memory),))
        found.append(
            TimedCandidate(
                architecture=architecture.describe(bench.supernet),
                predicted=table.seconds(case),
                measured=seconds / bench.batch,
            )
        )
    return tuple(found)


def _fitted(architecture: Architecture, bench: Bench) -> Detector:
    """A detector fitted on a band of each image, so that few patches come from many images."""
    subnet, maps = bench.fitted_maps(architecture)
    positions = bench.supernet.grid(architecture.backbone, architecture.input.size)
    share = _PATCHES / (len(maps[0]) * positions[0] * positions[1])
    bands = []
    for one in maps:
        height = one.shape[2]
        kept = min(max(round(share * height), 1), height)
        top = (height - kept) // 2
        bands.append(one[:, :, top : top + kept])
    head = fit_head(bands, architecture.head, size=bench.side)
    return Detector(
        architecture=architecture,
        subnet=subnet,
        head=head,
        threshold=calibrate([0.0, 1.0], false_alarm_rate=0.5),
        calibration_scores=torch.zeros(2, device=bench.device),
        usual_distance=0.0,
        data_digest="",
        reading=DEFAULT_READING,
    )


def _forward(detector: Detector, bench: Bench) -> Callable[[], None]:
    batches = cycle(bench.query_pixels(detector.architecture.input.size))

    def work() -> None:
        with torch.inference_mode():
            detector(next(batches))

    return work
