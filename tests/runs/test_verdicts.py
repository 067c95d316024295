"""Mistakes of a detector on the test set."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from autopatch.data import Sample
from autopatch.detector import calibrate
from autopatch.runs.verdicts import Verdicts, too_few

TYPES = ["good"] * 28 + ["crack"] * 12 + ["blowhole"] * 11 + ["break"] * 11
SAMPLES = [Sample(Path(f"{i}.png"), kind, Path("mask.png")) for i, kind in enumerate(TYPES)]
ENOUGH = calibrate([float(i) for i in range(19)], false_alarm_rate=0.05)
TOO_FEW = calibrate([0.0, 1.0, 2.0], false_alarm_rate=0.05)


def verdicts(wrong, *, threshold=ENOUGH, synthetic=False):
    """Verdicts with so many mistakes of each type."""
    left = Counter(wrong)
    called = []
    for sample in SAMPLES:
        mistaken = left[sample.type] > 0
        left[sample.type] -= 1
        called.append(sample.label != mistaken)
    return Verdicts.of(threshold, SAMPLES, called, synthetic=synthetic)


def test_mistakes_are_counted_by_type():
    found = verdicts({"good": 1, "crack": 2, "break": 1})
    assert found.anomalous == {"blowhole": 11, "break": 11, "crack": 12}
    assert found.missed == {"blowhole": 0, "break": 1, "crack": 2}
    assert (found.good, found.false_alarms) == (28, 1)
    assert found.sentences() == [
        "Of 34 anomalous test images it misses 3 (8.8 %, 90 % interval 2.4 to 21.3 %); of 28 good "
        "ones it calls 1 anomalous (3.6 %, 0.2 to 15.9 %), 5 % were asked for.",
        "Missed by type: 0 of 11 blowhole, 1 of 11 break, 2 of 12 crack.",
    ]
    assert found.warnings() == []


def test_synthetic_anomalies_are_called_so():
    first, second = verdicts({}, synthetic=True).sentences()
    assert first.startswith("Of 34 test images with synthetic anomalies it misses 0 (0.0 %,")
    assert second.startswith("Missed by kind: ")


def test_one_type_needs_no_list():
    found = Verdicts.of(ENOUGH, SAMPLES[:29], [False] * 29, synthetic=False)
    assert found.sentences() == [
        "Of 1 anomalous test image it misses 1 (100.0 %, 90 % interval 5.0 to 100.0 %); of 28 good "
        "ones it calls 0 anomalous (0.0 %, 0.0 to 10.1 %), 5 % were asked for."
    ]


@pytest.mark.parametrize(("false_alarms", "broken"), [(0, False), (3, False), (4, True)])
def test_a_promise_that_is_not_kept_is_said(false_alarms, broken):
    # 3 of 28 false alarms have the interval 3.0 to 25.4 %, and 4 of 28 that of 5.0 to 29.8 %.
    found = verdicts({"good": false_alarms})
    assert found.breaks_promise == broken
    assert (found.false_alarm_interval[0] > 0.05) == broken
    said = [line for line in found.warnings() if "more false alarms on the test set" in line]
    assert len(said) == broken


def test_too_few_good_images_are_said():
    assert too_few(ENOUGH) is None
    expected = (
        "3 good images cannot certify the 5 % of false alarms that were asked for: expect 25 %. "
        "19 good images are needed."
    )
    assert too_few(TOO_FEW) == expected
    assert verdicts({}, threshold=TOO_FEW).warnings() == [expected]


def test_to_and_from_json():
    found = verdicts({"crack": 1})
    assert Verdicts.from_json(json.loads(json.dumps(asdict(found)))) == found
    for broken in ({}, {"threshold": None}, {**asdict(found), "more": 1}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Verdicts.from_json(broken)
