"""Finds good images that do not look like the other good images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri

from autopatch.kernels import NearestNeighborIndex, greedy_coreset, nearest_neighbors

EXPECTED_FALSE_FLAGS = 0.5
"""Expected number of flagged images among good ones whose scores follow the rule's model."""

_FOLDS = 20
_SHARE = 0.1  # of the patches of an image
_NORMAL = 1.4826  # standard deviation of a normal distribution, in median absolute deviations
_LEAST_SPREAD = 0.1  # of log scores: equal images must not make small differences unusual


def patch_coresets(images: Iterable[torch.Tensor]) -> torch.Tensor:
    """A tenth of the patches of each image, chosen by the greedy k-center rule from the patch
    nearest to the mean.

    Args:
        images: Patch features, `[P, D]` each, float32, on one device.

    Returns:
        `[n, R, D]`, float32; R is a tenth of P, at least 1.
    """
    chosen = []
    for patches in images:
        start = int(nearest_neighbors(patches.mean(dim=0, keepdim=True), patches)[1])
        count = math.ceil(_SHARE * len(patches))
        chosen.append(patches[greedy_coreset(patches, count, start=start)[0]])
    return torch.stack(chosen)


def distances_to_others(
    patches: torch.Tensor,
    coresets: torch.Tensor,
    related: Sequence[Sequence[int]],
    *,
    seed: int,
    told: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Squared distances of the patches of images to those of other images.

    The images are divided at random into 20 folds, and the patches of a fold are searched in the
    coresets of all images outside it. Unlike in a coreset of all patches, no image can have more
    rows than another because it is unusual.

    Args:
        patches: Patch features, `[n, P, D]`, float32.
        coresets: Their `patch_coresets`, `[n, R, D]`.
        related: Sets of images by number, which stay in one fold; at least two.
        seed: Seed of the folds.
        told: Called before and after every fold with the number of images done, and their total.

    Returns:
        `[n, P]`, float32.
    """
    order = np.random.default_rng(seed).permutation(len(related)).tolist()
    found = patches.new_empty(patches.shape[:2])
    done = 0
    for first in range(min(_FOLDS, len(order))):
        if told is not None:
            told(done, len(patches))
        fold = [image for number in order[first::_FOLDS] for image in related[number]]
        outside = torch.ones(len(patches), dtype=torch.bool, device=patches.device)
        outside[fold] = False
        index = NearestNeighborIndex(coresets[outside].flatten(0, 1))
        found[fold] = nearest_neighbors(patches[fold].flatten(0, 1), index)[0].reshape(
            len(fold), -1
        )
        done += len(fold)
    if told is not None:
        told(done, len(patches))
    return found


def highest_usual(scores: npt.NDArray[np.floating]) -> float:
    """The score above which an image is unusual.

    The logarithms of the scores are modeled as normal, with their median as mean; the median
    distance of the upper half from the median, times 1.4826, is their standard deviation, but at
    least 0.1. Unusual images hardly change either. The limit is that of Chauvenet's criterion: of
    as many scores from the model, `EXPECTED_FALSE_FLAGS` are expected to be above it. Real scores
    have longer tails.

    Args:
        scores: Image scores, `[n]`, above 0.

    Raises:
        ValueError: There is no score, or one is not above 0.
    """
    if len(scores) == 0 or not (np.asarray(scores) > 0).all():
        raise ValueError("`scores` must hold at least one number, all above 0")
    logs = np.log(np.asarray(scores, np.float64))
    middle = float(np.median(logs))
    spread = _NORMAL * float(np.median(logs[logs >= middle] - middle))
    deviations = float(ndtri(1 - EXPECTED_FALSE_FLAGS / max(len(logs), 2)))
    return math.exp(middle + deviations * max(spread, _LEAST_SPREAD))
