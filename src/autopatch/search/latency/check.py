"""Checks a latency table: random candidates are fitted and timed whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch

from autopatch.detector import (
    Architecture,
    FittedHead,
    GoodMaps,
    PatchFeatureExtractor,
    fit_head,
)
from autopatch.search.latency.bench import USUAL_PATCHES, Bench
from autopatch.search.latency.component import Case
from autopatch.search.latency.table import LatencyTable, TimedCandidate
from autopatch.search.latency.timing import Work, as_in_use

CANDIDATES = 20
"""Number of candidates that a check times."""

_MOST_VALUES = 1 << 24  # of the patches that a bank is chosen from
_SHOTS, _DEFECT_ROWS = 2, 200  # known defects of candidates that keep any
_SEED = 1


@dataclass(frozen=True)
class Candidate:
    """A fitted candidate.

    Attributes:
        case: What its latency is read for.
        extractor: Turns pixels into patch features.
        head: Turns patch features into anomaly maps.
    """

    case: Case
    extractor: PatchFeatureExtractor
    head: FittedHead


def random_candidates(bench: Bench, count: int = CANDIDATES) -> list[Candidate]:
    """Fits random candidates of the space on patches of the good images."""
    space = bench.space
    rng = np.random.default_rng(_SEED)
    drawn: dict[tuple[int, ...], None] = {}
    wanted = min(count, space.size())
    for _ in range(100 * count):
        if len(drawn) < wanted:
            drawn[space.sample(rng)] = None
    candidates: list[Candidate] = []
    # Candidates that share feature maps follow one another.
    architectures = sorted(map(space.decode, drawn), key=lambda a: bench.shared_key(a))
    for architecture in architectures:
        bench.told("candidates", len(candidates), len(drawn))
        candidates.append(_fitted(architecture, bench))
    return candidates


def forward(candidate: Candidate, bench: Bench) -> Work:
    """A work: all that `Detector.forward` does, on one batch after the other."""
    batches = cycle(bench.query_pixels(candidate.case.size))

    def run() -> None:
        with torch.inference_mode():
            maps = candidate.head.score(candidate.extractor(next(batches)))
            maps.flatten(1).amax(dim=1)

    return as_in_use(run, bench.clock)


def compared(
    table: LatencyTable, bench: Bench, candidates: Sequence[Candidate], seconds: Sequence[float]
) -> tuple[TimedCandidate, ...]:
    """The latency of candidates in a table beside their latency timed whole.

    Args:
        table: The table.
        bench: Where they were timed.
        candidates: The candidates.
        seconds: Measured seconds per batch of each.
    """
    return tuple(
        TimedCandidate(
            architecture=candidate.case.architecture.describe(bench.supernet),
            predicted=table.seconds(candidate.case),
            measured=measured / bench.batch,
        )
        for candidate, measured in zip(candidates, seconds, strict=True)
    )


def _fitted(architecture: Architecture, bench: Bench) -> Candidate:
    subnet, maps, queries = bench.fitted_maps(architecture)
    head = architecture.head
    most = _MOST_VALUES // sum(m.shape[1] for m in maps)
    if head.bank_size is not None:
        most = min(max(USUAL_PATCHES, 2 * head.bank_size), most)
    patches = bench.sampled(maps, head.patch_sizes, most=most)
    # The sampled patches are given as images of a single patch, which are pooled already.
    pooled = replace(head, patch_sizes=(1,) * len(maps))
    images = patches[:, :, None, None].split([m.shape[1] for m in maps], dim=1)
    fitted = fit_head(GoodMaps.of(images), pooled, size=bench.side)
    fitted.aggregator.patch_sizes = head.patch_sizes
    if head.defects is not None:  # any rows do for known defects: what a search does is counted
        defects = fitted.aggregator([m[:_SHOTS] for m in maps])[:_DEFECT_ROWS]
        fitted = fitted.knowing(fitted.memory.bank, defects, usual=1.0)
    case = Case.of(bench.supernet, architecture, fitted, queries, counted=bench.needs_counts)
    return Candidate(case, PatchFeatureExtractor(subnet, fitted.aggregator), fitted)
