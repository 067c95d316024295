from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autopatch.data import Anomaly, Sample, Split
from autopatch.report import Evidence, by_kind
from autopatch.report.evidence import part_of


@pytest.fixture
def synthetic() -> list[Anomaly]:
    good = Sample(Path("good/0.png"), "good")
    return [Anomaly(Sample(Path(f"{k}.png"), k, Path("m")), good) for k in ("warp", "blur", "blur")]


def test_what_a_search_has_seen(split: Split, synthetic: list[Anomaly]) -> None:
    both = Evidence.of(split, synthetic)
    assert both.brief() == "3 synthetic anomalies and 2 shots"
    assert both.describe() == (
        "3 synthetic anomalies (1 warp, 2 blur) and 2 shots (1 crack, 1 <dent>)"
    )
    assert (both.good, both.anomalies) == (17, 5)
    real = Evidence.of(split, ())
    assert real.brief() == "2 anomalous images"
    drawn = Evidence.of(replace(split, validation=()), synthetic[:1])
    assert drawn.describe() == "1 synthetic anomaly (1 warp)"
    assert Evidence.of(replace(split, validation=()), ()).describe() == "0 anomalous images"


def test_kinds_are_sorted_from_the_worst_to_the_best(
    split: Split, synthetic: list[Anomaly]
) -> None:
    found = {
        "rwAP.warp": 0.6,
        "rwAP.blur": 0.25,
        "image_AUROC.blur": 0.9,
        "image_AUROC.warp": 1.0,
        "rwAP": 0.5,
        "rwAP.low": 0.25,
        "rwAP.high": 0.75,
        "image_AUROC": 0.8,
    }
    rows = by_kind(found, Evidence.of(split, synthetic))
    assert rows == [
        ("blur", "2", "25.0", "90.0"),
        ("warp", "1", "60.0", "100.0"),
        ("shots (real anomalies)", "2", "50.0 (25.0–75.0)", "80.0"),
    ]
    assert by_kind(found, Evidence.of(replace(split, validation=()), synthetic)) == rows[:2]
    assert by_kind(found, Evidence.of(split, ())) == []
    assert by_kind({}, Evidence.of(split, synthetic)) == []


def test_the_images_of_a_part(split: Split) -> None:
    words = part_of(split.test)
    assert words == "9 good images and 11 anomalous images (6 <dent>, 5 crack)"
    drawn = part_of(split.test, drawn=True)
    assert drawn == "9 good images and 11 synthetic anomalies (6 <dent>, 5 crack)"
    assert part_of(split.holdout) == "17 good images and 0 anomalous images"
