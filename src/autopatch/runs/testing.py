"""The images that the detectors of a run are tested on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from autopatch.data import Sample, draw_anomalies, load_anomalies
from autopatch.progress import Progress
from autopatch.runs.folder import PER_KIND
from autopatch.runs.record import RunRecord

SYNTHETIC_TEST = "synthetic_test"
"""Folder in a run folder with the synthetic anomalies of the test set."""


@dataclass(frozen=True)
class TestSet:
    """The test set of a run.

    Attributes:
        samples: Good and anomalous images.
        synthetic: Whether the anomalies are drawn, because the data set has no anomalous images.
    """

    __test__ = False  # not a pytest class

    samples: tuple[Sample, ...]
    synthetic: bool

    @classmethod
    def of(cls, run: RunRecord, progress: Progress | None = None) -> TestSet:
        """The test set of a run.

        Without anomalous images, anomalies of the kinds of the search are drawn on its good images,
        with another seed. They are kept in the run folder and drawn only once.

        Args:
            run: The search.
            progress: Called after every anomaly that is drawn.

        Raises:
            InputError: The anomalies cannot be drawn, or were changed.
        """
        split = run.split
        if any(sample.label for sample in split.test):
            return cls(split.test, synthetic=False)
        folder = run.path / SYNTHETIC_TEST
        if folder.is_dir():
            drawn = load_anomalies(folder)
        else:
            kinds = Counter(anomaly.sample.type for anomaly in run.synthetic)
            drawn = draw_anomalies(
                split.test,
                folder,
                textures=split.fit,
                kinds=list(kinds) or None,
                per_kind=max(kinds.values(), default=PER_KIND),
                seed=split.seed + 1,
                reading=run.reading,
                progress=progress,
            )
        return cls((*split.test, *(anomaly.sample for anomaly in drawn)), synthetic=True)
