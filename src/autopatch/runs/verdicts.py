"""How often a detector is wrong about the images of the test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopatch.data import Sample
from autopatch.detector import Threshold
from autopatch.detector.threshold import binomial_interval
from autopatch.words import by_count, counted


@dataclass(frozen=True)
class Verdicts:
    """The mistakes of a detector on the test set, at its threshold.

    The intervals take images as independent; with several images of one part they are too narrow.

    Attributes:
        threshold: The threshold.
        anomalous: Number of anomalous images by type.
        missed: Number of them that are not called anomalous, by type.
        good: Number of good images.
        false_alarms: Number of good images that are called anomalous.
        synthetic: Whether the anomalies are drawn.
    """

    threshold: Threshold
    anomalous: Mapping[str, int]
    missed: Mapping[str, int]
    good: int
    false_alarms: int
    synthetic: bool

    @classmethod
    def of(
        cls,
        threshold: Threshold,
        samples: Sequence[Sample],
        called: Sequence[bool],
        *,
        synthetic: bool,
    ) -> Verdicts:
        """Counts the mistakes.

        Args:
            threshold: The threshold of the detector.
            samples: Good and anomalous images that it has not seen.
            called: Whether it calls each of them anomalous.
            synthetic: Whether the anomalies are drawn.
        """
        verdicts = list(zip(samples, called, strict=True))
        anomalous = Counter(sample.type for sample in samples if sample.label)
        missed = Counter(sample.type for sample, found in verdicts if sample.label and not found)
        return cls(
            threshold=threshold,
            anomalous=dict(sorted(anomalous.items())),
            missed={name: missed[name] for name in sorted(anomalous)},
            good=sum(not sample.label for sample in samples),
            false_alarms=sum(found and not sample.label for sample, found in verdicts),
            synthetic=synthetic,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdicts:
        """Reads what `dataclasses.asdict` made.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        threshold = dict(value["threshold"])
        low, high = threshold["interval"]
        return cls(**{**value, "threshold": Threshold(**{**threshold, "interval": (low, high)})})

    @property
    def missed_interval(self) -> tuple[float, float]:
        """90 % interval of the share of anomalous images that the detector misses."""
        return binomial_interval(sum(self.missed.values()), sum(self.anomalous.values()))

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """90 % interval of the share of good images that the detector calls anomalous."""
        return binomial_interval(self.false_alarms, self.good)

    @property
    def breaks_promise(self) -> bool:
        """Whether there are more false alarms than the requested rate can explain."""
        return self.false_alarm_interval[0] > self.threshold.target_rate

    def sentences(self) -> list[str]:
        """The mistakes in words: of all images, and of each type if there are several."""
        missed, anomalous = sum(self.missed.values()), sum(self.anomalous.values())
        images = f"test {by_count(anomalous, 'image', 'images')}"
        noun = f"{images} with synthetic anomalies" if self.synthetic else f"anomalous {images}"
        found = [
            f"Of {anomalous:,} {noun} it misses {missed:,} ({_share(missed, anomalous)} %, 90 % "
            f"interval {_range(self.missed_interval)} %); of {self.good:,} good ones it calls "
            f"{self.false_alarms:,} anomalous ({_share(self.false_alarms, self.good)} %, "
            f"{_range(self.false_alarm_interval)} %), {100 * self.threshold.target_rate:.3g} % "
            "were asked for."
        ]
        if len(self.anomalous) > 1:
            of_types = [f"{self.missed[t]} of {n} {t}" for t, n in self.anomalous.items()]
            found.append(
                f"Missed by {'kind' if self.synthetic else 'type'}: {', '.join(of_types)}."
            )
        return found

    def warnings(self) -> list[str]:
        """What is wrong with the promised rate of false alarms, one sentence each."""
        warning = too_few(self.threshold)
        found = [] if warning is None else [warning]
        asked = f"{100 * self.threshold.target_rate:.3g} %"
        if self.breaks_promise:
            found.append(
                f"There are more false alarms on the test set than the {asked} that were asked "
                "for: even the lower end of their interval, "
                f"{100 * self.false_alarm_interval[0]:.1f} %, is above it. New good images may "
                "differ from those that the detector was fitted on, or the threshold is too low by "
                "chance."
            )
        return found


def too_few(threshold: Threshold) -> str | None:
    """That there are too few good images for the requested rate of false alarms, in words; None if
    there are enough."""
    if threshold.has_enough_images:
        return None
    return (
        f"{counted(threshold.images, 'good image')} cannot certify the "
        f"{100 * threshold.target_rate:.3g} % of false alarms that were asked for: expect "
        f"{100 * threshold.expected_rate:.3g} %. {threshold.images_needed:,} good images are "
        "needed."
    )


def _share(count: int, of: int) -> str:
    return f"{100 * count / max(of, 1):.1f}"


def _range(interval: tuple[float, float]) -> str:
    return " to ".join(f"{100 * end:.1f}" for end in interval)
