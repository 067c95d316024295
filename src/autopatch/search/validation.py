"""Metrics of a candidate on the images of a search: shots and synthetic anomalies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from autopatch.data import GOOD, Sample
from autopatch.detector import score_maps
from autopatch.search.bootstrap import LEAST_GROUPS, Bootstrap, interval

ROBUST = "robust"
"""Beginning of the names of metrics that combine synthetic anomalies and shots."""

COMBINED = ("rwAP", "image_AUROC")
"""The metrics that are combined."""

SHOTS_RWAP = "shots_rwAP"
"""Beginning of the names of the rwAP on the shots of one type."""

_Value = TypeVar("_Value", float, torch.Tensor)


def shots_weight(shots: Sequence[Sample]) -> float:
    """Weight of the shots beside synthetic anomalies: k / (k + 4) for k shots of each type.

    It is 0 without shots, a fifth with one of each type, and a half with four. For k, the mean over
    the types is taken. docs/evaluation.md compares other weights.
    """
    types = {shot.type for shot in shots}
    if not types:
        return 0.0
    of_each = len(shots) / len(types)
    return of_each / (of_each + 4)


@dataclass(frozen=True)
class Measured:
    """What the anomaly maps of a candidate are worth.

    Attributes:
        metrics: Metrics by name.
        resampled: The metrics with intervals on resamples of the groups of images, by name. The
            resamples are the same for all candidates. Those without a good or an anomalous image
            are left out.
    """

    metrics: dict[str, float]
    resampled: dict[str, tuple[float, ...]]


class ValidationMetrics:
    """Computes the metrics of a candidate from its anomaly maps.

    The metrics of the scored images, if some are anomalous, have their usual names, such as "rwAP".
    "shots_rwAP.<type>" is that of the anomalous images of one type and the good ones, if there are
    several types. If there are synthetic anomalies, there are also:

    - "rwAP.<kind>" and "image_AUROC.<kind>": of the anomalies of one kind and the good images
      beside them, or the scored good images if the kind is a transplant; see `Shots`.
    - "robust_rwAP" and "robust_image_AUROC": their means over the kinds, combined with the metric
      of the shots by `shots_weight`.

    Of rwAP, image AUROC and the robust metrics there are 90 % intervals, "<name>.low" and
    "<name>.high", by a bootstrap over the groups of images, if at least
    `LEAST_GROUPS` of them have a good image.

    Args:
        masks: Anomalous pixels, bool `[V, S, S]`, on the CPU: of the scored images, then of the
            good ones among them again and of the synthetic anomalies.
        types: Anomaly type, kind, or "good" of each image.
        groups: Name of the group of each image.
        scored: Number of scored images.
        shots: The shots among the scored images.
        transplants: Kinds that are taken from shots.
        intervals: Whether to compute intervals.
        device: Device of the anomaly maps.
    """

    def __init__(
        self,
        masks: torch.Tensor,
        types: Sequence[str],
        groups: Sequence[str],
        *,
        scored: int,
        shots: Sequence[Sample],
        transplants: Collection[str] = (),
        intervals: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self._masks, self._types = masks.to(device), list(types)
        good_groups = {g for g, kind in zip(groups, types, strict=True) if kind == GOOD}
        self._bootstrap = None
        if intervals and len(good_groups) >= LEAST_GROUPS:
            self._bootstrap = Bootstrap(masks, types, groups, good=GOOD, device=device)
        self._scored = list(range(scored)) if set(types[:scored]) - {GOOD} else []
        beside = range(scored, len(types))
        good, lacking = (
            [place for place in places if types[place] == GOOD]
            for places in (beside, range(scored))
        )
        kinds = dict.fromkeys(types[place] for place in beside if types[place] != GOOD)
        self._kinds = {
            kind: (lacking if kind in transplants else good)
            + [place for place in beside if types[place] == kind]
            for kind in kinds
        }
        real = sorted({types[place] for place in self._scored} - {GOOD})
        self._types_of_shots = {
            name: [place for place in self._scored if types[place] in (GOOD, name)]
            for name in real
            if len(real) > 1
        }
        self._weight = shots_weight(shots)

    def __call__(self, maps: torch.Tensor) -> Measured:
        """Measures a candidate.

        Args:
            maps: Anomaly maps of the images, `[V, S, S]`, float32.
        """
        metrics = self._metrics(maps, self._scored) if self._scored else {}
        for name, places in self._types_of_shots.items():
            metrics[f"{SHOTS_RWAP}.{name}"] = self._metrics(maps, places)["rwAP"]
        for kind, places in self._kinds.items():
            of_kind = self._metrics(maps, places)
            metrics |= {f"{name}.{kind}": of_kind[name] for name in COMBINED}
        if self._kinds:
            for name in COMBINED:
                metrics[f"{ROBUST}_{name}"] = self._robust(
                    [metrics[f"{name}.{kind}"] for kind in self._kinds], metrics.get(name)
                )
        resampled = {}
        for name, values in self._resampled(maps).items():
            bounds = interval(values)
            if bounds is not None:
                metrics |= {f"{name}.low": bounds[0], f"{name}.high": bounds[1]}
                defined = values[values.isfinite()].tolist()
                resampled[name] = tuple(round(value, 4) for value in defined)
        return Measured(metrics, resampled)

    def _robust(self, of_kinds: Sequence[_Value], of_shots: _Value | None) -> _Value:
        """The combination of the values of all kinds and the value of the shots."""
        mean = sum(of_kinds[1:], of_kinds[0]) / len(of_kinds)
        return mean if of_shots is None else mean + self._weight * (of_shots - mean)

    def _resampled(self, maps: torch.Tensor) -> dict[str, torch.Tensor]:
        """The combined metrics on each resample, `[RESAMPLES]`, by name; none if there are no
        intervals."""
        if self._bootstrap is None:
            return {}
        levels = self._bootstrap.levels(maps)
        found = {}
        for name, resampled in zip(
            COMBINED, (self._bootstrap.rwap, self._bootstrap.image_auroc), strict=True
        ):
            if self._scored:
                found[name] = resampled(levels, self._scored)
            if self._kinds:
                of_kinds = [resampled(levels, places) for places in self._kinds.values()]
                found[f"{ROBUST}_{name}"] = self._robust(of_kinds, found.get(name))
        return {name: values[1:] for name, values in found.items()}

    def _metrics(self, maps: torch.Tensor, places: Sequence[int]) -> dict[str, float]:
        chosen = torch.tensor(places).to(maps.device)
        types = [self._types[place] for place in places]
        return score_maps(maps[chosen], self._masks[chosen], types)
