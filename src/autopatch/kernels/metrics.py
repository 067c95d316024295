"""Pixel-wise metrics of anomaly maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from autopatch.kernels import _checks
from autopatch.kernels._arrays import Array, check_threads, to_tensor
from autopatch.kernels.operators.pixel_metrics import check_metrics_error

NORMAL_TYPE = "good"


@dataclass(frozen=True)
class PixelMetrics:
    """Metrics over all pixels of a set of images, each from 0 to 1; higher is better.

    Attributes:
        rwAP: Region-weighted average precision (Kerssies & Vanschoren, 2023).
        AP: Average precision.
        AUROC: Area under the ROC curve.
        partial_AUROC: AUROC up to a false-positive rate of 0.3, standardized so that chance is 0.5
            (McClish, 1989).
        AUPRO: Area under the per-region overlap curve, averaged over regions, up to a
            false-positive rate of 0.3, divided by 0.3 (Bergmann et al., 2021).
    """

    rwAP: float  # noqa: N815
    AP: float
    AUROC: float
    partial_AUROC: float  # noqa: N815
    AUPRO: float

    def as_dict(self) -> dict[str, float]:
        """The metrics by name."""
        return asdict(self)


def pixel_metrics(
    scores: Array, masks: Array, types: Sequence[str], *, num_threads: int | None = None
) -> PixelMetrics:
    """All five metrics of anomaly scores against masks, in one pass.

    Anomalous pixels form 8-connected regions within each image. In rwAP the weight of a pixel is
    (mean area of the regions / area of its region) x (mean number of regions per type / number of
    regions of its type). Regions of one type thus count equally, regardless of size, and so do
    types, regardless of their number of regions. The mean over types includes types without a
    region. Normal pixels have weight 1.

    Average precision is the sum of recall gain x precision over the distinct scores. ROC and
    overlap curves are straight lines between the points of distinct scores, interpolated at the
    limit. Equal scores form one point; -0 equals 0, and infinities are ordered like numbers. Sums
    are float64 and the same for any number of threads.

    On the CPU the working memory is at most 64 MiB, plus up to 60 bytes for each pixel row of each
    anomalous region. All scores are read once for every half a million distinct scores of anomalous
    pixels. On a GPU the working memory is 32 bytes per pixel (40 with float64 scores), for up to
    2^31 - 256 pixels.

    Args:
        scores: Anomaly scores `[N, H, W]`, higher is more anomalous; float32, float64, float16,
            bfloat16 or uint8, on the CPU or a GPU. They are compared exactly, without binning.
        masks: `[N, H, W]`, bool or uint8, on the same device; nonzero is anomalous.
        types: The anomaly type of each image, "good" for normal images.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        The metrics. Without a normal pixel, rwAP and AP are 1 and the others NaN.

    Raises:
        TypeError: The dtype of an array is not allowed.
        NotImplementedError: A tensor is sparse, or on a device that the kernels cannot run on.
        ValueError: Sizes do not match, `scores` contain NaN, a "good" image has an anomalous pixel,
            or there is no anomalous pixel.
    """
    anomaly_types = sorted(set(types) - {NORMAL_TYPE})
    index = {NORMAL_TYPE: -1, **{name: i for i, name in enumerate(anomaly_types)}}
    scores = to_tensor("scores", scores).detach()
    _checks.check_memory("scores", scores)
    if scores.is_meta:
        raise NotImplementedError("`scores` is on meta, expected cpu or cuda: it has no values")
    type_indices = torch.tensor([index[name] for name in types], dtype=torch.int32, device="cpu")
    if scores.is_cuda:  # a copy from unpinned memory would wait for the stream
        type_indices = type_indices.pin_memory().to(scores.device, non_blocking=True)
    *values, error = torch.ops.autopatch.pixel_metrics(
        scores,
        to_tensor("masks", masks),
        type_indices,
        len(anomaly_types),
        check_threads(num_threads),
    ).tolist()
    check_metrics_error(int(error), len(anomaly_types))
    return PixelMetrics(*values)


def region_weighted_average_precision(scores: Array, masks: Array, types: Sequence[str]) -> float:
    """The rwAP of anomaly scores against masks; see `pixel_metrics`."""
    return pixel_metrics(scores, masks, types).rwAP
