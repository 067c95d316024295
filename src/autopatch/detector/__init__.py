"""Detectors: a subnet, a memory bank of good patches, and a threshold.

- `Detector`: fit, predict, save and load. `images_digest`: which images it was fitted on.
- `cut_subnet`: the subnet of an architecture, ready for use. `feature_maps`: its maps of images.
- `MemoryBank`: patch features of good images, and the distance of new ones to them.
  `stack_maps`: its feature maps, from batches.
- `score_maps`: the quality of anomaly maps on labelled images.
- `Threshold`, `calibrate`: when to call an image anomalous.
"""

from autopatch.detector.detector import (
    Detector,
    Prediction,
    cut_subnet,
    feature_maps,
    images_digest,
    stack_maps,
)
from autopatch.detector.memory import MAX_CORESET_SAMPLE, MemoryBank, total_flops
from autopatch.detector.quality import METRICS, score_maps
from autopatch.detector.threshold import Threshold, calibrate

__all__ = [
    "MAX_CORESET_SAMPLE",
    "METRICS",
    "Detector",
    "MemoryBank",
    "Prediction",
    "Threshold",
    "calibrate",
    "cut_subnet",
    "feature_maps",
    "images_digest",
    "score_maps",
    "stack_maps",
    "total_flops",
]
