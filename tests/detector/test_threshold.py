import numpy as np
import pytest

from autopatch.detector import calibrate


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
    assert "too few calibration images" in threshold.describe()


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
