"""The threshold above which an image is called anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betaincinv

from autopatch.errors import InputError

_COVERAGE = 0.9
_ROUNDING = 1e-9  # keeps the rounding of a product from lifting it to the next integer


@dataclass(frozen=True)
class Threshold:
    """A threshold on image scores, calibrated on good images that the scores do not know.

    Attributes:
        value: Images with a higher score are called anomalous.
        target_rate: The requested false-alarm rate.
        expected_rate: Expected false-alarm rate. Above the target if there are too few calibration
            images.
        interval: The true rate lies between these bounds with 90 % probability, see `calibrate`.
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
                ""
                if self.has_enough_images
                else f" (above the requested {self.target_rate:.1%}: too few calibration images, "
                f"{self.images_needed:,} are needed)"
            )
        )

    @property
    def has_enough_images(self) -> bool:
        """Whether the expected rate is at most the requested one."""
        return self.images >= self.images_needed

    @property
    def images_needed(self) -> int:
        """Smallest number of calibration images with which the expected rate is at most the
        requested one: the smallest n with 1 / (n + 1) <= target_rate."""
        return math.ceil(1 / self.target_rate - _ROUNDING) - 1


def calibrate(scores: Sequence[float], *, false_alarm_rate: float = 0.05) -> Threshold:
    """Sets the threshold to an order statistic of the scores of good images.

    With n scores and the k-th smallest as threshold, the false-alarm rate on new good images from
    the same distribution follows Beta(n + 1 - k, k) for any continuous distribution (Wilks, 1941).
    k is the smallest rank with an expected rate of at most `false_alarm_rate`, or n if there is
    none.

    This holds if the scores of these images and of new ones are exchangeable: if each image was
    equally likely to be any of them. It holds for images apart from those of the bank. With folds
    it holds approximately: the images of a fold share a bank, which is chosen from fewer images
    than that of the detector. It does not hold if a fold and its bank have near copies of one
    another, such as photographs of one part; groups prevent that. The interval takes the images as
    independent; with several images of each part it is too narrow.

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
    rank = min(count, math.ceil((count + 1) * (1 - false_alarm_rate) - _ROUNDING))
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


def binomial_interval(count: int, of: int) -> tuple[float, float]:
    """The 90 % interval of a probability: of so many independent cases, `count` came true.

    It is exact (Clopper and Pearson, 1934): a probability outside would give a count this far off
    in at most 5 % of all samples.

    Args:
        count: Number of cases that came true, 0 to `of`.
        of: Number of cases; without any, the interval is 0 to 1.
    """
    low = 0.0 if count == 0 else _quantile(count, of - count + 1, (1 - _COVERAGE) / 2)
    high = 1.0 if count == of else _quantile(count + 1, of - count, (1 + _COVERAGE) / 2)
    return low, high


def _quantile(a: int, b: int, probability: float) -> float:
    """Of the distribution Beta(a, b)."""
    return float(betaincinv(a, b, probability))  # scipy.stats takes longer to import


def check_rate(false_alarm_rate: float) -> None:
    """Raises InputError unless the rate is between 0 and 1."""
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"`false_alarm_rate` is {false_alarm_rate}, expected between 0 and 1")
