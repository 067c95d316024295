import math

import numpy as np
import pytest

from autopatch.detector import calibrate
from autopatch.detector.threshold import binomial_interval


def test_order_statistic_of_the_wanted_rate():
    scores = [float(i) for i in range(1, 20)]  # 19 images: the largest leaves 1 in 20 above
    threshold = calibrate(scores, false_alarm_rate=0.05)
    assert threshold.value == 19.0
    assert threshold.expected_rate == pytest.approx(0.05)
    assert threshold.images == 19
    assert "too few" not in threshold.describe()


def test_a_looser_rate_takes_a_lower_score():
    scores = [float(i) for i in range(1, 100)]
    threshold = calibrate(scores, false_alarm_rate=0.1)
    assert threshold.value == 90.0
    assert threshold.expected_rate == pytest.approx(0.1)
    low, high = threshold.interval
    assert low < 0.1 < high


def test_too_few_images_are_said():
    threshold = calibrate([3.0, 1.0, 2.0], false_alarm_rate=0.01)
    assert threshold.value == 3.0
    assert threshold.expected_rate == pytest.approx(0.25)
    assert threshold.describe().endswith("too few calibration images, 99 are needed)")


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.05, 0.03, 0.01, 0.001])
def test_the_images_that_a_rate_needs(rate):
    needed = calibrate([1.0], false_alarm_rate=rate).images_needed
    for count, enough in ((needed, True), (needed - 1, False)):
        threshold = calibrate([float(i) for i in range(count)], false_alarm_rate=rate)
        assert ("too few" not in threshold.describe()) == enough


def test_rate_and_interval_hold_in_simulation():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(4000):
        threshold = calibrate(rng.exponential(size=23).tolist(), false_alarm_rate=0.1)
        rates.append(np.exp(-threshold.value))  # exact share of further scores above it
    assert np.mean(rates) == pytest.approx(threshold.expected_rate, rel=0.05)
    low, high = threshold.interval
    inside = np.mean([(low <= rate <= high) for rate in rates])
    assert inside == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        calibrate([1.0], false_alarm_rate=rate)


def test_no_scores():
    with pytest.raises(ValueError, match="empty"):
        calibrate([])


@pytest.mark.parametrize(("count", "of"), [(0, 28), (1, 28), (3, 34), (34, 34), (5, 10), (1, 1)])
def test_a_binomial_interval_leaves_a_twentieth_on_each_side(count, of):
    def at_most(most, rate):
        return sum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(most + 1))

    low, high = binomial_interval(count, of)
    assert low <= count / of <= high
    assert low == 0 if count == 0 else 1 - at_most(count - 1, low) == pytest.approx(0.05)
    assert high == 1 if count == of else at_most(count, high) == pytest.approx(0.05)


def test_no_case_tells_nothing():
    assert binomial_interval(0, 0) == (0.0, 1.0)
