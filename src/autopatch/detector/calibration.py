"""Sets the threshold of a fitted head on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from autopatch.detector.extractor import images_at_a_time
from autopatch.detector.known import usual_distance
from autopatch.detector.scoring import FittedHead
from autopatch.detector.threshold import Threshold, calibrate
from autopatch.supernet import Subnet


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate_head`.

    Attributes:
        threshold: The score above which an image is called anomalous.
        scores: Image scores of the calibration images, `[n]`.
        usual_score: Median pixel of their anomaly maps.
    """

    threshold: Threshold
    scores: torch.Tensor
    usual_score: float


def calibrate_head(
    subnet: Subnet,
    head: FittedHead,
    pixels: torch.Tensor,
    false_alarm_rate: float,
    told: Callable[[int, int], None] | None = None,
) -> tuple[FittedHead, Calibration]:
    """Measures the usual distance of good patches if defects are known, and sets the threshold.

    Args:
        subnet: The backbone.
        head: The fitted head.
        pixels: Calibration images at the architecture's size, uint8 `[n, 3, S, S]`.
        false_alarm_rate: Share of good images that may be called anomalous.
        told: Called after every batch with the number of images done, and their total.

    Returns:
        The head with the usual distance, and the calibration.
    """
    if len(head.defects):
        distances = [
            head.memory(head.aggregator(maps)) for maps in _feature_maps(subnet, pixels, told)
        ]
        usual = usual_distance(torch.cat(distances))
        head = head.knowing(head.memory.bank, head.defects.bank, usual=usual)
    maps = torch.cat([head.anomaly_maps(maps) for maps in _feature_maps(subnet, pixels, told)])
    scores = maps.flatten(1).amax(dim=1)
    threshold = calibrate(scores.tolist(), false_alarm_rate=false_alarm_rate)
    return head, Calibration(threshold, scores, float(maps.median()))


def _feature_maps(
    subnet: Subnet, pixels: torch.Tensor, told: Callable[[int, int], None] | None
) -> Iterator[Sequence[torch.Tensor]]:
    done = 0
    for batch in pixels.split(images_at_a_time(subnet.device)):
        with torch.inference_mode():
            yield subnet(subnet.normalize(batch.to(subnet.device)))
        done += len(batch)
        if told is not None:
            told(done, len(pixels))
