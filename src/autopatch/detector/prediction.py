"""Predictions of a detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import torch


@dataclass(frozen=True)
class ImagePrediction:
    """Prediction for one image.

    Attributes:
        anomaly_map: `[S, S]`, float32; see `Prediction`.
        pred_score: Maximum of the anomaly map.
        pred_label: Whether the image is anomalous.
        pred_mask: Whether each pixel is anomalous, `[S, S]`, bool.
    """

    anomaly_map: torch.Tensor
    pred_score: float
    pred_label: bool
    pred_mask: torch.Tensor


@dataclass(frozen=True)
class Prediction:
    """Predictions for N images, on the detector's device; iterable.

    Attributes:
        anomaly_map: `[N, S, S]`, float32: squared distances, not bounded.
        pred_score: Image scores, `[N]`, float32: the maximum of each map. The other images in a
            call change a score only by rounding, about 1e-6 of its value.
        threshold: Scores above it are anomalous.
    """

    anomaly_map: torch.Tensor
    pred_score: torch.Tensor
    threshold: float

    @property
    def pred_label(self) -> torch.Tensor:
        """Whether each image is anomalous, `[N]`, bool."""
        return self.pred_score > self.threshold

    @property
    def pred_mask(self) -> torch.Tensor:
        """Whether each pixel is anomalous, `[N, S, S]`, bool."""
        return self.anomaly_map > self.threshold

    def __len__(self) -> int:
        return len(self.anomaly_map)

    @overload
    def __getitem__(self, index: int) -> ImagePrediction: ...

    @overload
    def __getitem__(self, index: slice) -> Prediction: ...

    def __getitem__(self, index: int | slice) -> ImagePrediction | Prediction:
        """The prediction for one image, or for a slice of images."""
        if isinstance(index, slice):
            return Prediction(self.anomaly_map[index], self.pred_score[index], self.threshold)
        anomaly_map, score = self.anomaly_map[index], self.pred_score[index]
        return ImagePrediction(
            anomaly_map,
            float(score),
            bool(score > self.threshold),
            anomaly_map > self.threshold,
        )

    def __iter__(self) -> Iterator[ImagePrediction]:
        return (self[index] for index in range(len(self)))
