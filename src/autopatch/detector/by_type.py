"""What known defects are worth to a detector, for each type of anomaly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autopatch.data import DEFAULT_READING, GOOD, Reading, Sample, load_masks
from autopatch.detector.detector import Detector
from autopatch.detector.known import KnownImage
from autopatch.detector.metrics import score_maps
from autopatch.progress import Progress


@dataclass(frozen=True)
class TypeResult:
    """How well a detector with known defects finds one type of anomaly.

    All values are the rwAP on the anomalous images of this type and all good images.

    Attributes:
        type: The anomaly type.
        known: Number of known images of the type.
        seen: Of the detector.
        unseen: Of the detector without its known images of this type.
        without: Of the detector without any known images.
    """

    type: str
    known: int
    seen: float
    unseen: float
    without: float


def score_by_type(
    detector: Detector,
    samples: Sequence[Sample],
    reading: Reading = DEFAULT_READING,
    progress: Progress | None = None,
) -> tuple[TypeResult, ...]:
    """Scores a detector on each type of anomaly, with and without its known images of the type.

    Args:
        detector: The detector.
        samples: Good and anomalous images that it has not seen.
        reading: How mask files become pixels.
        progress: Called after every batch of images.

    Returns:
        One result for each type among the samples, sorted; nothing if the detector knows no
        defects.
    """
    known = [image for image in detector.known if image.type != GOOD]
    if not known:
        return ()
    masks = load_masks(samples, detector.evaluation_size, reading)

    def anomaly_maps(lacking: Sequence[KnownImage], places: Sequence[int]) -> torch.Tensor:
        lacks = detector
        if lacking:
            lacks = copy.deepcopy(detector)
            lacks.update(remove=[image.name for image in lacking])
        images = [samples[place].image for place in places]
        return lacks.predict(images, progress=progress).anomaly_map

    every = range(len(samples))
    seen, without = anomaly_maps([], every), anomaly_maps(detector.known, every)
    found = []
    for kind in sorted({sample.type for sample in samples if sample.label}):
        of_type = [image for image in known if image.type == kind]
        places = [place for place in every if samples[place].type in (GOOD, kind)]
        chosen = torch.tensor(places).to(seen.device)
        of_kind = {"seen": seen[chosen], "without": without[chosen]}
        of_kind["unseen"] = anomaly_maps(of_type, places) if of_type else of_kind["seen"]
        types = [samples[place].type for place in places]
        rwap = {
            name: score_maps(maps, masks[places], types)["rwAP"] for name, maps in of_kind.items()
        }
        found.append(TypeResult(type=kind, known=len(of_type), **rwap))
    return tuple(found)
