from __future__ import annotations

from dataclasses import replace

import pytest

from autopatch.report import as_tested, bounds, in_words, percent
from autopatch.search.objectives import OBJECTIVES

METRICS = {"rwAP": 0.612, "rwAP.low": 0.55, "rwAP.high": 0.668, "AP": 0.5, "AUROC.low": 0.1}


def test_metrics_with_and_without_an_interval() -> None:
    assert bounds(METRICS, "rwAP") == (0.55, 0.668)
    assert bounds(METRICS, "AUROC") is None
    assert percent(METRICS, "rwAP") == "61.2 (55.0–66.8)"
    assert percent(METRICS, "rwAP", interval=False) == "61.2"
    assert percent(METRICS, "AP") == "50.0"
    assert percent(METRICS, "AUPRO") == "–"


def test_objectives_in_words() -> None:
    rwap, flops = OBJECTIVES["rwAP"], OBJECTIVES["total_flops"]
    values = {"rwAP": 0.612, "total_flops": 2.5e9}
    assert in_words(rwap, values, METRICS) == "61.2 % (90 % interval 55.0 to 66.8)"
    assert in_words(rwap, values) == "61.2 %"
    assert in_words(flops, values, METRICS) == "2.50 GFLOP"
    assert in_words(replace(flops, unit=""), values) == "2.50"
    assert in_words(flops, {}) == "– GFLOP"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("robust_rwAP", "rwAP"),
        ("robust_image_AUROC", "image_AUROC"),
        ("rwAP", "rwAP"),
        ("total_flops", "total_flops"),
    ],
)
def test_the_test_set_has_no_synthetic_anomalies(name: str, expected: str) -> None:
    assert as_tested(OBJECTIVES[name]) == OBJECTIVES[expected]
