from __future__ import annotations

import pytest

from autopatch.search import Evaluation, Objective


def test_losses_are_all_minimized(objectives: tuple[Objective, ...]) -> None:
    evaluation = Evaluation({"rwAP": 0.75, "total_flops": 7})
    assert evaluation.losses(objectives) == (7.0, 0.25)
    assert evaluation.losses(objectives[::-1]) == (0.25, 7.0)
    assert evaluation.losses(objectives[1:]) == (0.25,)


@pytest.mark.parametrize(
    ("values", "metrics", "timings", "message"),
    [
        ({"cost": 2**53}, {}, {}, "cost is 9007199254740992, expected a magnitude"),
        ({"cost": -(2**53)}, {}, {}, "cost is -9007199254740992"),
        ({"cost": float("nan")}, {}, {}, "cost is nan"),
        ({"cost": 1}, {"AUPRO": float("inf")}, {}, "AUPRO is inf"),
        ({"cost": 1}, {}, {"fit": float("nan")}, "fit is nan"),
    ],
)
def test_values_out_of_range(
    values: dict[str, float], metrics: dict[str, float], timings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(values, metrics, timings)
    Evaluation({"cost": 2**53 - 1, "gain": -(2**53 - 1)})
