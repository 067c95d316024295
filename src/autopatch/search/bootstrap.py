"""Intervals of metrics by a bootstrap over the groups of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

RESAMPLES = 200
COVERAGE = 0.9
"""Share of the resampled values that an interval holds."""

LEAST_GROUPS = 5
"""With fewer groups of good images there are no intervals."""

_MAX_LEVELS = 2048  # of scores
_OCTAVES = 15  # below the highest score; lower scores are equal
_WHOLE = 2**40  # a region in fixed point, so that sums do not depend on their order


@dataclass(frozen=True)
class Levels:
    """Rounded scores of V images, on the device of their anomaly maps.

    Attributes:
        negative: Number of good pixels of each image at each level, ascending, float64 `[V, L]`.
        positive: Anomalous pixels, each divided by the area of its region, float64 `[V, L]`.
        highest: Highest score of each image, float32 `[V]`, not rounded.
    """

    negative: torch.Tensor
    positive: torch.Tensor
    highest: torch.Tensor


class Bootstrap:
    """Resamples the groups of images, with replacement, and computes rwAP and image AUROC anew.

    An image, the synthetic anomalies drawn on it, and all images of its part are one group, since
    they are not independent. Groups with a good image and groups of anomalous images alone are
    drawn apart, so that every resample has as many shots as the sample. Scores are rounded to 2,048
    levels or fewer, 0.4 to 0.8 % apart; those below 1/32,768 of the highest are equal.

    Args:
        masks: Anomalous pixels, bool `[V, S, S]`, on the CPU.
        types: Anomaly type or "good" of each image.
        groups: Name of the group of each image.
        good: The type of images without an anomaly.
        device: Device of the anomaly maps.
        seed: Seed of the resampling.
    """

    def __init__(
        self,
        masks: torch.Tensor,
        types: Sequence[str],
        groups: Sequence[str],
        *,
        good: str,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        good_groups = {g for g, t in zip(groups, types, strict=True) if t == good}
        counts = np.ones((1 + RESAMPLES, len(names)))  # the first is the sample itself
        rng = np.random.default_rng(seed)
        for part in (good_groups, names.keys() - good_groups):
            places = sorted(names[name] for name in part)
            if places:
                shares = np.full(len(places), 1 / len(places))
                counts[1:, places] = rng.multinomial(len(places), shares, size=RESAMPLES)
        counts = counts[:, [names[g] for g in groups]]
        weights = np.zeros(masks.shape, np.int64)
        areas, regions = np.zeros(len(types)), np.zeros(len(types))
        for image, mask in enumerate(masks.numpy()):
            labels, found = ndimage.label(mask, np.ones((3, 3), bool))
            of_labels = np.bincount(labels.ravel(), minlength=found + 1)
            areas[image], regions[image] = of_labels[1:].sum(), found
            weights[image] = (_WHOLE // np.maximum(of_labels, 1))[labels]
        self._types, self._good = list(types), good
        self._counts = torch.from_numpy(counts).to(device)
        self._areas, self._regions = (torch.from_numpy(a).to(device) for a in (areas, regions))
        anomalous = masks.flatten().nonzero().flatten()
        self._anomalous = anomalous.to(device)
        self._weights = torch.from_numpy(weights).flatten()[anomalous].to(device)

    def levels(self, maps: torch.Tensor) -> Levels:
        """The scores of anomaly maps, rounded.

        Args:
            maps: Anomaly maps, `[V, S, S]`, float32.
        """
        keys = _keys(maps.flatten(1))
        count = int(keys.max()) + 1
        offsets = torch.arange(len(keys), dtype=torch.int32, device=keys.device)[:, None] * count
        cells, size = (keys + offsets).flatten(), len(keys) * count
        anomalous = cells[self._anomalous]
        negative = torch.bincount(cells, minlength=size)
        negative -= torch.bincount(anomalous, minlength=size)
        positive = torch.zeros_like(negative).index_add_(0, anomalous, self._weights)
        return Levels(
            negative.double().reshape(-1, count),
            positive.double().reshape(-1, count) / _WHOLE,
            maps.flatten(1).amax(dim=1),
        )

    def rwap(self, levels: Levels, places: Sequence[int]) -> torch.Tensor:
        """rwAP of some images: of the sample, then of each resample; NaN if it has no anomaly.

        Returns:
            float64 `[1 + RESAMPLES]`.
        """
        counts, chosen = self._chosen(places)
        regions = counts @ self._regions[chosen]
        mean_area = counts @ self._areas[chosen] / regions
        kinds = sorted({self._types[place] for place in places} - {self._good})
        seen = counts.new_zeros(len(counts))
        positive = counts.new_zeros((len(counts), levels.positive.shape[1]))
        for kind in kinds:
            of_kind, those = self._chosen([p for p in places if self._types[p] == kind])
            found = of_kind @ self._regions[those]
            seen += found > 0
            # Without a region of this kind there is nothing to weigh.
            share = regions / found.clamp(min=1)
            positive += (of_kind @ levels.positive[those]) * share[:, None]
        positive *= (mean_area / seen)[:, None]
        true = positive.flip(1).cumsum(dim=1)
        false = (counts @ levels.negative[chosen]).flip(1).cumsum(dim=1)
        precision = true / (true + false).clamp(min=torch.finfo(true.dtype).tiny)
        return (precision * positive.flip(1)).sum(dim=1) / true[:, -1]

    def image_auroc(self, levels: Levels, places: Sequence[int]) -> torch.Tensor:
        """Image AUROC of some images, as `rwap`; NaN if it has no good or no anomalous image."""
        good, of_good = self._chosen([p for p in places if self._types[p] == self._good])
        bad, of_bad = self._chosen([p for p in places if self._types[p] != self._good])
        one, other = levels.highest[of_bad][:, None], levels.highest[of_good]
        above = (one > other).double() + 0.5 * (one == other)
        pairs = bad.sum(dim=1) * good.sum(dim=1)
        return ((bad @ above) * good).sum(dim=1) / pairs

    def _chosen(self, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """How often each of some images is in each resample, and their places as a tensor."""
        chosen = torch.tensor(places, dtype=torch.int64).to(self._counts.device)
        return self._counts[:, chosen], chosen


def interval(values: torch.Tensor | Sequence[float]) -> tuple[float, float] | None:
    """The interval of resampled values `[R]`; None if fewer than half are defined."""
    defined = [value for value in map(float, values) if np.isfinite(value)]
    if 2 * len(defined) < len(values):
        return None
    low, high = np.quantile(defined, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _keys(scores: torch.Tensor) -> torch.Tensor:
    """Integers from 0 in the order of the scores; scores that differ little have the same."""
    bits = scores.contiguous().view(torch.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # in the order of the numbers, also below 0
    most = int(keys.max())
    least = max(int(keys.min()), most - (_OCTAVES << 23))
    shift = 15
    while (most >> shift) - (least >> shift) >= _MAX_LEVELS:
        shift += 1
    return (keys.clamp(min=least) >> shift) - (least >> shift)
