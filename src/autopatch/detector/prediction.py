"""What a detector says of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import torch


@dataclass(frozen=True)
class ImagePrediction:
    """What a detector says of one image.

    Attributes:
        anomaly_map: `[S, S]`, float32; see `Prediction`.
        pred_score: Its maximum.
        pred_label: Whether the image is anomalous.
        pred_mask: Which pixels are, `[S, S]`, bool.
    """

    anomaly_map: torch.Tensor
    pred_score: float
    pred_label: bool
    pred_mask: torch.Tensor


@dataclass(frozen=True)
class Prediction:
    """What a detector says of N images; iterates over them.

    Attributes:
        anomaly_map: `[N, S, S]`, float32: squared distances, not bounded. On the detector's device,
            as all are.
        pred_score: Image scores, `[N]`, float32: the maximum of each map. An image's score depends
            on the images beside it by no more than rounding, some 1e-6 of its value.
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
        """Which pixels are anomalous, `[N, S, S]`, bool."""
        return self.anomaly_map > self.threshold

    def __len__(self) -> int:
        return len(self.anomaly_map)

    @overload
    def __getitem__(self, index: int) -> ImagePrediction: ...

    @overload
    def __getitem__(self, index: slice) -> Prediction: ...

    def __getitem__(self, index: int | slice) -> ImagePrediction | Prediction:
        """What is said of one image, or of some."""
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
