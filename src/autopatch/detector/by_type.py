"""What known defects are worth to a detector, for each type of anomaly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from autopatch.data import DEFAULT_READING, GOOD, Reading, Sample, load_masks
from autopatch.detector.detector import Detector
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

    def rwap(kind: str, lacking: Sequence[str]) -> float:
        scored = [sample for sample in samples if sample.type in (GOOD, kind)]
        lacks = detector
        if lacking:
            lacks = copy.deepcopy(detector)
            lacks.update(remove=lacking)
        maps = lacks.predict([sample.image for sample in scored], progress=progress).anomaly_map
        masks = load_masks(scored, detector.evaluation_size, reading)
        return score_maps(maps, masks, [sample.type for sample in scored])["rwAP"]

    every = [image.name for image in detector.known]
    found = []
    for kind in sorted({sample.type for sample in samples if sample.label}):
        of_type = [image.name for image in known if image.type == kind]
        found.append(
            TypeResult(
                type=kind,
                known=len(of_type),
                seen=rwap(kind, []),
                unseen=rwap(kind, of_type),
                without=rwap(kind, every),
            )
        )
    return tuple(found)
