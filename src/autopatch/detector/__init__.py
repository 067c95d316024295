"""Detectors: a subnet, a memory bank of good patches, and a threshold.

- `Detector`: fit, predict, save and load.
- `MemoryBank`: patch features of good images, and the distance of new ones to them.
- `score_maps`: the quality of anomaly maps on labelled images.
- `Threshold`, `calibrate`: when to call an image anomalous.
"""

from autopatch.detector.detector import Detector, Prediction, Progress
from autopatch.detector.memory import MAX_CORESET_SAMPLE, MemoryBank, total_flops
from autopatch.detector.quality import METRICS, score_maps
from autopatch.detector.threshold import Threshold, calibrate

__all__ = [
    "MAX_CORESET_SAMPLE",
    "METRICS",
    "Detector",
    "MemoryBank",
    "Prediction",
    "Progress",
    "Threshold",
    "calibrate",
    "score_maps",
    "total_flops",
]
