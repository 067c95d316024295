"""The anomalies that a search has seen, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from autopatch.data import GOOD, Anomaly, Sample, Split
from autopatch.report.metrics import percent
from autopatch.search.validation import SHOTS_RWAP
from autopatch.words import by_count, counted


@dataclass(frozen=True)
class Evidence:
    """The images of the validation set, which decides the pick.

    Attributes:
        good: Number of good images.
        kinds: Number of synthetic anomalies by kind.
        shots: Number of real anomalous images by type.
    """

    good: int
    kinds: Mapping[str, int] = field(default_factory=dict)
    shots: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, split: Split, synthetic: Iterable[Anomaly]) -> Evidence:
        """The evidence of a search.

        Args:
            split: Roles of its images.
            synthetic: Its synthetic anomalies.
        """
        return cls(
            good=len(split.holdout),
            kinds=Counter(anomaly.sample.type for anomaly in synthetic),
            shots=Counter(sample.type for sample in split.validation),
        )

    @property
    def anomalies(self) -> int:
        """Number of anomalies, synthetic and real."""
        return sum(self.kinds.values()) + sum(self.shots.values())

    def brief(self) -> str:
        """The number of anomalies, such as "60 synthetic anomalies and 3 shots"."""
        return " and ".join(words for words, _ in self._parts())

    def describe(self) -> str:
        """All anomalies by kind and type, such as "20 synthetic anomalies (10 blur, 10 warp) and 1
        shot (1 crack)"."""
        return " and ".join(f"{words}{_listed(counts)}" for words, counts in self._parts())

    def _parts(self) -> list[tuple[str, Mapping[str, int]]]:
        drawn, real = sum(self.kinds.values()), sum(self.shots.values())
        parts: list[tuple[str, Mapping[str, int]]] = []
        if drawn:
            parts.append((drawn_anomalies(drawn), self.kinds))
        if real or not drawn:
            parts.append((counted(real, "shot" if drawn else "anomalous image"), self.shots))
        return parts


def drawn_anomalies(count: int) -> str:
    """A number of synthetic anomalies, in words."""
    return f"{count:,} synthetic {by_count(count, 'anomaly', 'anomalies')}"


def part_of(samples: Sequence[Sample], *, drawn: bool = False) -> str:
    """The number of images by type, such as "9 good images and 5 anomalous images (5 crack)".

    Args:
        samples: The images.
        drawn: Whether the anomalies are synthetic.
    """
    counts = Counter(sample.type for sample in samples)
    good, anomalous = counts.pop(GOOD, 0), sum(counts.values())
    words = drawn_anomalies(anomalous) if drawn else counted(anomalous, "anomalous image")
    return f"{counted(good, 'good image')} and {words}{_listed(dict(sorted(counts.items())))}"


def by_kind(found: Mapping[str, float], evidence: Evidence) -> list[tuple[str, str, str, str]]:
    """How well a candidate finds each kind of synthetic anomaly, the worst kind first, then the
    shots, of all types and of each.

    Args:
        found: Its metrics on the validation set by name.
        evidence: The anomalies.

    Returns:
        Kind, number of anomalies, rwAP and image AUROC in percent; nothing without synthetic
        anomalies.
    """
    kinds = sorted(
        (kind for kind in evidence.kinds if f"rwAP.{kind}" in found),
        key=lambda kind: (found[f"rwAP.{kind}"], kind),
    )
    rows = [
        (
            kind,
            str(evidence.kinds[kind]),
            percent(found, f"rwAP.{kind}"),
            percent(found, f"image_AUROC.{kind}"),
        )
        for kind in kinds
    ]
    if rows and evidence.shots:
        count = sum(evidence.shots.values())
        shots = (percent(found, "rwAP"), percent(found, "image_AUROC"))
        rows.append(("shots (real anomalies)", str(count), *shots))
        for name, value in rwap_of_shots(found):
            rows.append((f"shots of {name}", str(evidence.shots[name]), f"{100 * value:.1f}", ""))
    return rows


def rwap_of_shots(found: Mapping[str, float]) -> list[tuple[str, float]]:
    """The rwAP of a candidate on the shots of each type, the worst type first; nothing if there is
    only one.

    Args:
        found: Its metrics on the validation set by name.
    """
    start = f"{SHOTS_RWAP}."
    types = [(n.removeprefix(start), value) for n, value in found.items() if n.startswith(start)]
    return sorted(types, key=lambda entry: (entry[1], entry[0]))


def _listed(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f" ({listed})" if listed else ""
