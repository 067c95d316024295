from __future__ import annotations

import pytest
import torch

from autopatch.detector import STEPS, FeatureTransform, Head
from autopatch.errors import InputError


def projection(features: int, out_features: int) -> FeatureTransform:
    made = STEPS["projection"].features(out_features, features, (features,))
    assert isinstance(made, FeatureTransform)
    made.fit(iter(()))
    return made


def test_the_matrix_is_the_same_everywhere() -> None:
    matrix = projection(128, 48).matrix
    assert matrix.dtype == torch.float32
    expected = [
        [-0.1443376, 0.0964827, -0.1479484],
        [0.1443376, -0.1526365, -0.1087599],
        [-0.1443376, 0.0254942, -0.1428885],
        [-0.1443376, 0.0301263, -0.1788947],
    ]
    torch.testing.assert_close(matrix[::40, ::20], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("features", "out_features"), [(128, 48), (56, 55), (5, 1), (3, 2)])
def test_columns_are_orthogonal(features: int, out_features: int) -> None:
    matrix = projection(features, out_features).matrix
    expected = features / out_features * torch.eye(out_features)
    torch.testing.assert_close(matrix.T @ matrix, expected, rtol=0, atol=1e-5)


def test_projected_features() -> None:
    patches = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    to_eight = projection(20, 8)
    assert to_eight.out_features == 8
    expected = patches.double() @ to_eight.matrix.double()
    torch.testing.assert_close(to_eight(patches).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("features", "out_features"), [(512, 64), (64, 48)])
def test_squared_distances_are_kept(features: int, out_features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    difference = torch.randn(4000, features, generator=generator)
    projected = projection(features, out_features)(difference)
    ratio = projected.square().sum(1) / difference.square().sum(1)
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    deviation = (2 * (features - out_features) / out_features / (features + 2)) ** 0.5
    assert ratio.std() == pytest.approx(deviation, rel=0.1)


def test_features_that_are_few_stay() -> None:
    step = STEPS["projection"]
    assert step.features(64, 64, (64,)) is None
    assert step.features(65, 64, (64,)) is None
    assert step.features(63, 64, (64,)) is not None


@pytest.mark.parametrize("wrong", [0, -3, 64.0, True, "64"])
def test_wrong_dimensions(wrong: object) -> None:
    with pytest.raises(InputError, match="expected an integer from 1, or None"):
        STEPS["projection"].check(wrong)


def test_words() -> None:
    head = Head((3,), 50, {"projection": 64})
    assert head.describe(["a"]) == "a p3, bank 50, projected to at most 64 features"
    assert Head((3,), 50, {"projection": None}) == Head((3,), 50)
