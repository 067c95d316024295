from __future__ import annotations

import hashlib

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
    signs = (matrix > 0).numpy()
    assert hashlib.sha256(signs.tobytes()).hexdigest().startswith("1a7b7c3baba15b77")
    torch.testing.assert_close(matrix.abs(), torch.full((128, 48), 48**-0.5))
    assert abs(signs.mean() - 0.5) < 0.02


def test_columns_and_rows_are_not_correlated() -> None:
    signs = projection(512, 256).matrix * 16
    for matrix in (signs, signs.T):
        products = matrix @ matrix.T / matrix.shape[1]
        products.fill_diagonal_(0)
        assert products.square().mean() == pytest.approx(1 / matrix.shape[1], rel=0.1)


def test_projected_features() -> None:
    patches = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    to_eight = projection(20, 8)
    assert to_eight.out_features == 8
    expected = patches.double() @ to_eight.matrix.double()
    torch.testing.assert_close(to_eight(patches).double(), expected, rtol=1e-5, atol=1e-5)


def test_squared_distances_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    difference = torch.randn(4000, 512, generator=generator)
    ratio = projection(512, 64)(difference).square().sum(1) / difference.square().sum(1)
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


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
