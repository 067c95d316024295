"""Detectors: a subnet, a memory bank of good patches, and a threshold.

- `Architecture`: the parts of a detector: `Input`, `Backbone` (in `autopatch.supernet`), `Head`.
  `STEPS`, `Step`, `FeatureTransform`, `ScoreTransform`: optional steps of the head, and their
  registry.
- `Detector`: fit, predict, save and load; `Prediction`, `ImagePrediction`: its results.
- `PatchFeatureExtractor`, `PatchAggregator`, `MemoryBank`: its modules. `FittedHead`, `fit_head`:
  from feature maps to anomaly maps.
- `cut_subnet`: the extracted subnet of an architecture. `feature_maps`, `stack_maps`: its feature
  maps of images.
- `patchcore_architecture`: the PatchCore baseline.
- `score_maps`: metrics of anomaly maps on labeled images. `score_by_type`: what known defects are
  worth for each type of anomaly.
- `Defect`, `Known`, `KnownImage`, `KnownPatches`, `DefectBank`: known defects.
- `Threshold`, `calibrate`: the score above which an image is called anomalous.
"""

from autopatch.detector.architecture import Architecture
from autopatch.detector.by_type import TypeResult, score_by_type
from autopatch.detector.calibration import mean_of_nearest
from autopatch.detector.coreset import Coreset
from autopatch.detector.detector import Detector
from autopatch.detector.extractor import (
    GoodMaps,
    PatchAggregator,
    PatchFeatureExtractor,
    batches_of,
    cut_subnet,
    feature_maps,
    grid,
    images_at_a_time,
    stack_maps,
)
from autopatch.detector.head import DEFAULT_DEFECT_WEIGHT, Head
from autopatch.detector.input import Input
from autopatch.detector.known import (
    Defect,
    DefectBank,
    Known,
    KnownImage,
    KnownPatches,
    usual_distance,
)
from autopatch.detector.memory import MemoryBank, total_flops
from autopatch.detector.metrics import METRICS, score_maps
from autopatch.detector.patchcore import patchcore_architecture
from autopatch.detector.prediction import ImagePrediction, Prediction
from autopatch.detector.scoring import FittedHead, fit_head, fit_patches, head_of_coreset
from autopatch.detector.steps import STEPS, FeatureTransform, ScoreTransform, Step
from autopatch.detector.threshold import Threshold, calibrate, check_rate

__all__ = [
    "DEFAULT_DEFECT_WEIGHT",
    "METRICS",
    "STEPS",
    "Architecture",
    "Coreset",
    "Defect",
    "DefectBank",
    "Detector",
    "FeatureTransform",
    "FittedHead",
    "GoodMaps",
    "Head",
    "ImagePrediction",
    "Input",
    "Known",
    "KnownImage",
    "KnownPatches",
    "MemoryBank",
    "PatchAggregator",
    "PatchFeatureExtractor",
    "Prediction",
    "ScoreTransform",
    "Step",
    "Threshold",
    "TypeResult",
    "batches_of",
    "calibrate",
    "check_rate",
    "cut_subnet",
    "feature_maps",
    "fit_head",
    "fit_patches",
    "grid",
    "head_of_coreset",
    "images_at_a_time",
    "mean_of_nearest",
    "patchcore_architecture",
    "score_by_type",
    "score_maps",
    "stack_maps",
    "total_flops",
    "usual_distance",
]
