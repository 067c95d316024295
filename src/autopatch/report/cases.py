"""The best and the worst images of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from autopatch.data import DEFAULT_READING, GOOD, Reading, Sample, read_image
from autopatch.kernels import pixel_metrics
from autopatch.report.overlay import ColorScale, case_panel


@dataclass(frozen=True)
class Ranking:
    """Indices of images, ranked by how well they were segmented.

    Attributes:
        anomalous: Anomalous images with their pixel AP in [0, 1], best first.
        good: Good images, highest image score first.
    """

    anomalous: tuple[tuple[int, float], ...]
    good: tuple[int, ...]


def rank_cases(
    maps: npt.NDArray[np.float32],
    masks: npt.NDArray[np.bool_],
    types: Sequence[str],
    scores: Sequence[float],
) -> Ranking:
    """Ranks anomalous images by their pixel AP, and good images by their image score.

    Anomalous images whose masks are empty at this size are left out. Ties keep the input order.

    Args:
        maps: Anomaly maps, `[N, S, S]`.
        masks: True anomalies, bool `[N, S, S]`.
        types: Anomaly type of each image, or "good".
        scores: Image scores.
    """
    if not len(maps) == len(masks) == len(types) == len(scores):
        raise ValueError(
            f"maps, masks, types and scores have {len(maps)}, {len(masks)}, {len(types)} and "
            f"{len(scores)} entries, expected equal numbers"
        )
    anomalous = [
        (index, pixel_metrics(maps[index : index + 1], masks[index : index + 1], [kind]).AP)
        for index, kind in enumerate(types)
        if kind != GOOD and masks[index].any()
    ]
    good = [index for index, kind in enumerate(types) if kind == GOOD]
    return Ranking(
        anomalous=tuple(sorted(anomalous, key=lambda pair: -pair[1])),
        good=tuple(sorted(good, key=lambda index: -scores[index])),
    )


@dataclass(frozen=True)
class Cases:
    """A group of pictures in the report.

    Attributes:
        heading: Its heading.
        note: How the pictures were chosen.
        panels: Description and picture of each image.
    """

    heading: str
    note: str
    panels: tuple[tuple[str, Image.Image], ...]


def draw_cases(
    samples: Sequence[Sample],
    maps: npt.NDArray[np.float32],
    masks: npt.NDArray[np.bool_],
    scores: Sequence[float],
    scale: ColorScale,
    *,
    threshold: float | None = None,
    reading: Reading = DEFAULT_READING,
    count: int = 4,
    warning: str = "",
) -> tuple[Cases, ...]:
    """Draws the best and the worst anomalous images, and the most likely false alarms.

    Args:
        samples: The images.
        maps: Their anomaly maps, `[N, S, S]`.
        masks: Their true anomalies, bool `[N, S, S]`.
        scores: Their image scores.
        scale: The color scale.
        threshold: Images with a score above it are called anomalous; None for no verdict.
        reading: How image files are read.
        count: Maximum number of pictures in a group.
        warning: Text on every picture.

    Returns:
        Up to three groups that share no image; empty groups are left out.
    """
    ranking = rank_cases(maps, masks, [sample.type for sample in samples], scores)
    # A single anomalous image is shown as the worst one.
    best = ranking.anomalous[: min(count, len(ranking.anomalous) // 2)]
    worst = ranking.anomalous[len(best) :][::-1][:count]

    def panel(index: int, average_precision: float | None) -> tuple[str, Image.Image]:
        sample, score = samples[index], float(scores[index])
        quality = "" if average_precision is None else f"AP {average_precision:.1%}"
        remark = ", ".join(filter(None, (quality, warning)))
        picture = case_panel(
            read_image(sample.image, reading),
            maps[index],
            scale,
            name=sample.image.name,
            type=sample.type,
            score=score,
            threshold=threshold,
            mask=None if sample.type == GOOD else masks[index],
            remark=remark,
        )
        return f"{sample.image.name}, {sample.type}, score {score:.4g} {remark}".strip(), picture

    groups = (
        Cases(
            "Best segmented",
            "The anomalous test images with the highest pixel AP, best first.",
            tuple(panel(*pair) for pair in best),
        ),
        Cases(
            "Worst segmented",
            "The anomalous test images with the lowest pixel AP, worst first.",
            tuple(panel(*pair) for pair in worst),
        ),
        Cases(
            "Good images with the highest score",
            "The most likely false alarms, highest score first.",
            tuple(panel(index, None) for index in ranking.good[:count]),
        ),
    )
    return tuple(group for group in groups if group.panels)
