"""The threshold above which an image is called anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betaincinv

from autopatch.errors import InputError

_COVERAGE = 0.9


@dataclass(frozen=True)
class Threshold:
    """A threshold on image scores, calibrated on good images that are not used for fitting.

    Attributes:
        value: Images with a higher score are called anomalous.
        target_rate: The requested false-alarm rate.
        expected_rate: Expected false-alarm rate. Above the target if there are too few calibration
            images.
        interval: The true rate lies between these bounds with 90 % probability.
        images: Number of calibration images.
    """

    value: float
    target_rate: float
    expected_rate: float
    interval: tuple[float, float]
    images: int

    def describe(self) -> str:
        """The threshold and its expected false-alarm rate, on one line."""
        low, high = self.interval
        return (
            f"threshold {self.value:.4g} from {self.images} good images: expected false-alarm rate "
            f"{self.expected_rate:.1%}, 90 % interval {low:.1%} to {high:.1%}"
            + (
                f" (above the requested {self.target_rate:.1%}: too few calibration images)"
                if self.expected_rate > self.target_rate * (1 + 1e-9)
                else ""
            )
        )


def calibrate(scores: Sequence[float], *, false_alarm_rate: float = 0.05) -> Threshold:
    """Sets the threshold to an order statistic of the scores of good images.

    With n scores and the k-th smallest as threshold, the false-alarm rate on new good images from
    the same distribution follows Beta(n + 1 - k, k) for any continuous distribution (Wilks, 1941).
    k is the smallest rank with an expected rate of at most `false_alarm_rate`, or n if there is
    none.

    Args:
        scores: Image scores, at least one.
        false_alarm_rate: Share of good images that may be called anomalous, between 0 and 1.

    Raises:
        ValueError: There is no score.
        InputError: The rate is out of range.
    """
    if not scores:
        raise ValueError("`scores` is empty")
    check_rate(false_alarm_rate)
    count = len(scores)
    # The tolerance keeps rounding from lifting a whole product to the next rank.
    rank = min(count, math.ceil((count + 1) * (1 - false_alarm_rate) - 1e-9))
    rank = max(rank, 1)
    left = count + 1 - rank
    return Threshold(
        value=sorted(scores)[rank - 1],
        target_rate=false_alarm_rate,
        expected_rate=left / (count + 1),
        interval=(
            _quantile(left, rank, (1 - _COVERAGE) / 2),
            _quantile(left, rank, (1 + _COVERAGE) / 2),
        ),
        images=count,
    )


def _quantile(a: int, b: int, probability: float) -> float:
    """Of the distribution Beta(a, b)."""
    return float(betaincinv(a, b, probability))  # scipy.stats takes longer to import


def check_rate(false_alarm_rate: float) -> None:
    """Raises InputError unless the rate is between 0 and 1."""
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"`false_alarm_rate` is {false_alarm_rate}, expected between 0 and 1")
