"""The first objective of the published search."""

from __future__ import annotations

from autopatch.published.once_for_all import backbone_cost
from autopatch.search.objectives import FittedCandidate, Objective


def _published_flops(candidate: FittedCandidate) -> float:
    architecture = candidate.architecture
    return float(backbone_cost(architecture.backbone, architecture.input.size).flops)


PUBLISHED_FLOPS = Objective(
    name="published_flops",
    label="published FLOPs (backbone alone)",
    unit="GFLOP",
    scale=1e9,
    direction="minimize",
    measure=_published_flops,
)
