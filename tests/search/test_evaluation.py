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


def test_differences_are_those_of_the_same_resamples() -> None:
    def resampled(*values: float) -> Evaluation:
        return Evaluation({"rwAP": 0.5}, resampled={"rwAP": values})

    one, other = resampled(0.5, 0.75, 0.25), resampled(0.25, 0.25, 0.5)
    assert one.differences(other, "rwAP") == (0.25, 0.5, -0.25)
    assert one.differences(other, "AP") is None
    assert one.differences(resampled(0.5), "rwAP") is None
    with pytest.raises(ValueError, match="rwAP has resampled values that are not finite"):
        resampled(0.5, float("nan"))
