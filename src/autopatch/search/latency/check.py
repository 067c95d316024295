"""Checks a latency table: random candidates are fitted and timed whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
import torch

from autopatch.data import DEFAULT_READING
from autopatch.detector import (
    Architecture,
    Detector,
    calibrate,
    fit_head,
)
from autopatch.search.latency.bench import Bench
from autopatch.search.latency.components import Case
from autopatch.search.latency.table import LatencyTable, TimedCandidate
from autopatch.search.latency.timing import Work

CANDIDATES = 20
"""Number of candidates that a check times."""

_SEED = 1


def random_detectors(bench: Bench, count: int = CANDIDATES) -> list[Detector]:
    """Fits random candidates of the space on a sample of the patches of the good images."""
    space = bench.space
    rng = np.random.default_rng(_SEED)
    drawn: dict[tuple[int, ...], None] = {}
    for _ in range(100 * count):
        if len(drawn) < min(count, space.size()):
            drawn[space.sample(rng)] = None
    detectors: list[Detector] = []
    for genome in drawn:
        bench.told("candidates", len(detectors), len(drawn))
        detectors.append(_fitted(space.decode(genome), bench))
    return detectors


def forward(detector: Detector, bench: Bench) -> Work:
    """A work: `Detector.forward` on one batch after the other."""
    batches = cycle(bench.query_pixels(detector.architecture.input.size))

    def work() -> None:
        with torch.inference_mode():
            detector(next(batches))

    return work


def compared(
    table: LatencyTable, bench: Bench, detectors: Sequence[Detector], seconds: Sequence[float]
) -> tuple[TimedCandidate, ...]:
    """The latency of detectors in a table beside their latency timed whole.

    Args:
        table: The table.
        bench: Where they were timed.
        detectors: The detectors.
        seconds: Measured seconds per batch of each.
    """
    return tuple(
        TimedCandidate(
            architecture=detector.architecture.describe(bench.supernet),
            predicted=table.seconds(
                Case(bench.supernet, detector.architecture, (len(detector.memory),))
            ),
            measured=measured / bench.batch,
        )
        for detector, measured in zip(detectors, seconds, strict=True)
    )


def _fitted(architecture: Architecture, bench: Bench) -> Detector:
    subnet, maps = bench.fitted_maps(architecture)
    head = architecture.head
    patches = bench.sampled(maps, head.patch_sizes)
    # The sampled patches are given as images of a single patch, which are pooled already.
    pooled = replace(head, patch_sizes=(1,) * len(maps))
    images = patches[:, :, None, None].split([m.shape[1] for m in maps], dim=1)
    fitted = fit_head(images, pooled, size=bench.side)
    fitted.aggregator.patch_sizes = head.patch_sizes
    return Detector(
        architecture=architecture,
        subnet=subnet,
        head=fitted,
        threshold=calibrate([0.0, 1.0], false_alarm_rate=0.5),
        calibration_scores=torch.zeros(2, device=bench.device),
        usual_distance=0.0,
        data_digest="",
        reading=DEFAULT_READING,
    )
