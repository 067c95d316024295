"""Pixel metrics in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import max_pool2d, pad

_MAX_FALSE_POSITIVE_RATE = 0.3


def label_regions(masks: torch.Tensor) -> torch.Tensor:
    """8-connected regions `[N, H, W]` of masks `[N, H, W]`, numbered from 1; 0 is normal."""
    inside = (masks != 0).double()
    labels = torch.arange(1, inside.numel() + 1, dtype=torch.float64).view_as(inside) * inside
    while True:
        # The largest label of each region spreads until it fills the region: by one pixel, and from
        # the pixel that a label is the number of, which may have a larger one by now.
        spread = max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * inside
        spread = pad(spread.flatten(), (1, 0))[spread.long()]
        if torch.equal(spread, labels):
            break
        labels = spread
    normal = labels.new_zeros(1)  # so that labels start at 1 even if all pixels are anomalous
    roots: torch.Tensor = torch.unique(torch.cat([normal, labels.flatten()]))
    return torch.searchsorted(roots, labels)


def pixel_weights(masks: torch.Tensor, types: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of each pixel in rwAP, and its share of the mean per-region overlap."""
    labels = label_regions(masks)
    areas = torch.bincount(labels.flatten()).double()[1:]
    counts = dict.fromkeys(set(types) - {"good"}, 0)
    count_of_image = {}
    for image, (image_labels, name) in enumerate(zip(labels, types, strict=True)):
        count_of_image[image] = len(image_labels[image_labels > 0].unique())
        if name != "good":
            counts[name] += count_of_image[image]
    mean_count = sum(counts.values()) / len(counts)
    weights = torch.ones(masks.shape, dtype=torch.float64)
    overlaps = torch.zeros(masks.shape, dtype=torch.float64)
    for image, name in enumerate(types):
        if not count_of_image[image]:
            continue
        inside = labels[image] > 0
        area = areas[labels[image][inside] - 1]
        weights[image][inside] = (areas.mean() / area) * (mean_count / counts[name])
        overlaps[image][inside] = 1 / (area * len(areas))
    return weights, overlaps


def pixel_metrics(
    scores: torch.Tensor, masks: torch.Tensor, types: Sequence[str]
) -> dict[str, float]:
    """Like `autopatch.kernels.pixel_metrics(...).as_dict()`; sorts all pixels, in float64.

    Needs an anomalous and a normal pixel. The input is not checked.
    """
    weights, overlaps = (w.flatten() for w in pixel_weights(masks, types))
    positive = masks.flatten() != 0
    ordered, order = torch.sort(scores.flatten().double(), descending=True)
    last_of_ties = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])

    def curve(values: torch.Tensor) -> torch.Tensor:
        sums = _running_sum(values.double()[order])[last_of_ties]
        return torch.cat([sums.new_zeros(1), sums])

    true_positives, false_positives = curve(positive), curve(~positive)
    false_positive_rate = false_positives / false_positives[-1]
    true_positive_rate = true_positives / true_positives[-1]
    limit = _MAX_FALSE_POSITIVE_RATE
    partial = _area(false_positive_rate, true_positive_rate, limit)
    chance = limit**2 / 2
    return {
        "rwAP": _average_precision(curve(weights * positive), false_positives),
        "AP": _average_precision(true_positives, false_positives),
        "AUROC": _area(false_positive_rate, true_positive_rate, 1.0),
        "partial_AUROC": (1 + (partial - chance) / (limit - chance)) / 2,
        "AUPRO": _area(false_positive_rate, curve(overlaps), limit) / limit,
    }


def _running_sum(values: torch.Tensor) -> torch.Tensor:
    """Cumulative sum in blocks, so that rounding errors do not add up over millions of values."""
    size = 1024
    blocks = pad(values, (0, -len(values) % size)).view(-1, size)
    within = blocks.cumsum(1)
    before = pad(within[:-1, -1].cumsum(0), (1, 0))
    return (within + before[:, None]).flatten()[: len(values)]


def _average_precision(true_positives: torch.Tensor, false_positives: torch.Tensor) -> float:
    precision = true_positives[1:] / (true_positives[1:] + false_positives[1:])
    recall = true_positives / true_positives[-1]
    return float((recall.diff() * precision).sum())


def _area(x: torch.Tensor, y: torch.Tensor, limit: float) -> float:
    """Area under the line through the points (x, y) up to x = `limit`; x rises from 0 to 1."""
    stop = int((x <= limit).sum())
    if stop < len(x):
        fraction = (limit - x[stop - 1]) / (x[stop] - x[stop - 1])
        y_at_limit = y[stop - 1] + fraction * (y[stop] - y[stop - 1])
        x = torch.cat([x[:stop], x.new_tensor([limit])])
        y = torch.cat([y[:stop], y_at_limit[None]])
    return float(torch.trapezoid(y, x))
