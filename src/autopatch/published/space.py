"""The published search space."""

from __future__ import annotations

from collections.abc import Sequence

from autopatch.published.once_for_all import NETWORKS, OFA_MBV3, PUBLISHED, stage_genes
from autopatch.search import SearchSpace, compose_genes


def published_space(
    networks: Sequence[str] = tuple(NETWORKS.values()),
    *,
    bank_sizes: Sequence[int | None] = (None,),
) -> SearchSpace:
    """The published search space: 21 genes, 2 * 720**5 genomes, images of 224 px, the full bank.

    Kerssies & Vanschoren, Neural Architecture Search for Visual Anomaly Segmentation, AutoML 2023.

    Args:
        networks: Names of the networks to choose from; by default both, as published.
        bank_sizes: Choices of the bank size; None keeps all patches. By default only None, as
            published.
    """
    name = networks[0] if len(networks) == 1 else OFA_MBV3
    return compose_genes(
        name, stage_genes(networks), preset=PUBLISHED, choices={"bank_size": tuple(bank_sizes)}
    )
