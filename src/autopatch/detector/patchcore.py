"""PatchCore, the baseline of every search."""

from __future__ import annotations

import math

from autopatch.detector.architecture import Architecture
from autopatch.detector.head import Head
from autopatch.detector.input import Input
from autopatch.supernet import Supernet

_IMAGE_SIZE = 224
_PATCH_SIZE = 3
MAX_BANK_SIZE = 50_000
"""Largest bank of the PatchCore baseline."""


def patchcore_architecture(supernet: Supernet, *, images: int) -> Architecture | None:
    """The PatchCore baseline for a supernet.

    It uses the levels of stride 8 and 16 of the largest subnet, patch size 3, images of 224 px, and
    a coreset of 10 % of the patches, at most `MAX_BANK_SIZE`.

    Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.

    Args:
        supernet: The supernet.
        images: Number of good images for the bank.

    Returns:
        The architecture; None if the supernet has no such levels.
    """
    backbone = supernet.patchcore()
    if backbone is None:
        return None
    patches = images * math.prod(supernet.grid(backbone, _IMAGE_SIZE))
    bank_size = min(max(round(patches / 10), 1), MAX_BANK_SIZE)
    head = Head((_PATCH_SIZE,) * len(backbone.levels), bank_size)
    return Architecture(Input(_IMAGE_SIZE), backbone, head)
