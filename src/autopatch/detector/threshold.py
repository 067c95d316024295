"""When to call an image anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import beta

from autopatch.errors import InputError

_COVERAGE = 0.9


@dataclass(frozen=True)
class Threshold:
    """A limit on the image score, from good images that nothing else was fitted to.

    Attributes:
        value: Images that score above it are called anomalous.
        target_rate: False-alarm rate that was asked for.
        expected_rate: Mean false-alarm rate of a threshold made this way; above the target where
            there are too few calibration images to promise less.
        interval: Within these bounds the true rate lies with 90 % probability.
        images: Calibration images.
    """

    value: float
    target_rate: float
    expected_rate: float
    interval: tuple[float, float]
    images: int

    def describe(self) -> str:
        """The threshold and what it promises, in one line."""
        low, high = self.interval
        return (
            f"threshold {self.value:.4g} from {self.images} good images: expected false-alarm rate "
            f"{self.expected_rate:.1%}, 90 % interval {low:.1%} to {high:.1%}"
            + (
                f" (more than the {self.target_rate:.1%} asked for: too few calibration images)"
                if self.expected_rate > self.target_rate * (1 + 1e-9)
                else ""
            )
        )


def calibrate(scores: Sequence[float], *, false_alarm_rate: float = 0.05) -> Threshold:
    """Sets the threshold to an order statistic of the scores of good images.

    With n scores and the k-th smallest as threshold, the false-alarm rate of further good images of
    the same kind follows Beta(n + 1 - k, k), whatever the distribution of the scores (Wilks, 1941):
    k is the smallest whose mean rate is at most `false_alarm_rate`, or n.

    Args:
        scores: Image scores, at least one.
        false_alarm_rate: Share of good images that may be called anomalous, between 0 and 1.

    Raises:
        ValueError: There is no score, or the rate is out of range (an `InputError`).
    """
    if not scores:
        raise ValueError("`scores` is empty")
    check_rate(false_alarm_rate)
    count = len(scores)
    # The tolerance keeps 20 * 0.95 at 19 although the product is 19.000000000000004.
    rank = min(count, math.ceil((count + 1) * (1 - false_alarm_rate) - 1e-9))
    rank = max(rank, 1)
    rate = beta(count + 1 - rank, rank)
    return Threshold(
        value=sorted(scores)[rank - 1],
        target_rate=false_alarm_rate,
        expected_rate=float(rate.mean()),
        interval=(float(rate.ppf((1 - _COVERAGE) / 2)), float(rate.ppf((1 + _COVERAGE) / 2))),
        images=count,
    )


def check_rate(false_alarm_rate: float) -> None:
    """Raises InputError unless the rate is one that can be asked for."""
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"`false_alarm_rate` is {false_alarm_rate}, expected between 0 and 1")
