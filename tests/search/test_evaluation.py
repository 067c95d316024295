from __future__ import annotations

import pytest

from autopatch.search import Evaluation


def test_objectives_are_both_minimized() -> None:
    assert Evaluation(cost=7, metrics={"rwAP": 0.75}).objectives == (7.0, 0.25)


@pytest.mark.parametrize(
    ("cost", "metrics", "message"),
    [
        (-1, {"rwAP": 0.5}, "cost is -1"),
        (2**53, {"rwAP": 0.5}, "cost is 9007199254740992"),
        (1, {"AP": 0.5}, r"\['AP'\], expected rwAP"),
        (1, {"rwAP": float("nan")}, "rwAP is nan"),
        (1, {"rwAP": 1.5}, "rwAP is 1.5"),
        (1, {"rwAP": 0.5, "AUPRO": float("inf")}, "AUPRO is inf"),
    ],
)
def test_values_out_of_range(cost: int, metrics: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(cost=cost, metrics=metrics)
