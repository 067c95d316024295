"""Metrics of anomaly maps on labeled images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from autopatch.data import GOOD
from autopatch.kernels import pixel_metrics

METRICS = ("rwAP", "AP", "AUROC", "partial_AUROC", "AUPRO", "image_AUROC")


def score_maps(maps: torch.Tensor, masks: torch.Tensor, types: Sequence[str]) -> dict[str, float]:
    """All metrics of a set of anomaly maps; see `autopatch.kernels.pixel_metrics`.

    Args:
        maps: Anomaly maps, `[N, S, S]`, float32. The score of an image is the maximum of its map.
        masks: Anomalous pixels, `[N, S, S]`, bool, on any device.
        types: Anomaly type of each image, or "good".

    Returns:
        Values in [0, 1] by the names in `METRICS`. Metrics that are not finite are missing, and
        without both good and anomalous images, so is "image_AUROC".

    Raises:
        ValueError: See `pixel_metrics`.
    """
    metrics = pixel_metrics(maps, masks.to(maps.device), types).as_dict()
    anomalous = torch.tensor([kind != GOOD for kind in types], device="cpu")
    if anomalous.any() and not anomalous.all():
        # Each image is treated as a map of one pixel.
        scores = maps.flatten(1).amax(dim=1).reshape(-1, 1, 1)
        labels = anomalous.reshape(-1, 1, 1).to(scores.device)
        image_metrics = pixel_metrics(scores, labels, types)
        metrics["image_AUROC"] = image_metrics.AUROC
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
