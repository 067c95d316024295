from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from autopatch.kernels import pixel_metrics, reference

pytestmark = pytest.mark.benchmark(min_rounds=3, max_time=1.0)


@dataclass(frozen=True)
class Problem:
    scores: torch.Tensor
    masks: torch.Tensor
    types: list[str]
    values: dict[str, float]

    @property
    def task(self) -> dict[str, Any]:
        images, height, width = self.scores.shape
        return {
            "group": f"pixel_metrics: {images} images, {height} x {width}",
            "work": 1e-6 * self.scores.numel(),
            "unit": "Mpixel/s",
        }


@pytest.fixture(scope="module", params=[16], ids=lambda images: f"{images} images")
def problem(request: pytest.FixtureRequest) -> Problem:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(request.param, 1, 14, 14, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=224, mode="bilinear")[:, 0]
    masks = smooth > 1.3
    scores = smooth + 0.5 * torch.randn(smooth.shape, generator=generator)
    types = ["crack" if i % 2 else "dent" for i in range(request.param)]
    return Problem(scores, masks, types, reference.pixel_metrics(scores, masks, types))


def bench_torch_all_metrics(problem: Problem, measure: Callable[..., Any]) -> None:
    found = measure(
        lambda: reference.pixel_metrics(problem.scores, problem.masks, problem.types),
        **problem.task,
    )
    assert found == pytest.approx(problem.values, abs=1e-9)


def bench_sklearn_average_precision_alone(problem: Problem, measure: Callable[..., Any]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, masks = problem.scores.flatten().numpy(), problem.masks.flatten().numpy()
    found = measure(lambda: metrics.average_precision_score(masks, scores), **problem.task)
    assert found == pytest.approx(problem.values["AP"], abs=1e-6)


def bench_autopatch_all_metrics(
    problem: Problem, measure: Callable[..., Any], threads: int
) -> None:
    found = measure(
        lambda: pixel_metrics(problem.scores, problem.masks, problem.types, num_threads=threads),
        **problem.task,
    )
    assert found.as_dict() == pytest.approx(problem.values, abs=1e-9)
