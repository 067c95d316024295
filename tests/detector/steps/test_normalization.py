from __future__ import annotations

import pytest
import torch
from sklearn.covariance import OAS

from autopatch.detector import STEPS, FeatureTransform
from autopatch.detector.steps.normalization import oracle_approximating_shrinkage
from autopatch.errors import InputError

VALUES = ("standardize", "whiten")


def module(value: str, features: int) -> FeatureTransform:
    made = STEPS["normalization"].features(value, features, (features,))
    assert isinstance(made, FeatureTransform)
    return made


def fitted(value: str, *blocks: torch.Tensor) -> FeatureTransform:
    made = module(value, blocks[0].shape[1])
    made.fit(blocks)
    return made


def features(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Correlated features of different size, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(count, dim, generator=generator)
    mix = torch.randn(dim, dim, generator=generator) * torch.logspace(-1, 1, dim)
    return latent @ mix + torch.linspace(-5, 30, dim)


def covariance(patches: torch.Tensor) -> torch.Tensor:
    centered = patches.double() - patches.double().mean(0)
    return centered.T @ centered / len(patches)


def shrunk(patches: torch.Tensor) -> torch.Tensor:
    """Equation 23 of Chen et al. (2010)."""
    n, p = patches.shape
    of_sample = covariance(patches)
    trace, squares = of_sample.trace(), (of_sample @ of_sample).trace()
    above = (1 - 2 / p) * squares + trace**2
    below = (n + 1 - 2 / p) * (squares - trace**2 / p)
    weight = min(float(above / below), 1.0)
    return (1 - weight) * of_sample + weight * trace / p * torch.eye(p, dtype=torch.float64)


def test_standardized_features() -> None:
    patches = features(500, 12)
    found = fitted("standardize", patches)(patches)
    exact = patches.double()
    expected = exact / exact.std(0, correction=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_whitened_features() -> None:
    patches = features(500, 12)
    whitening = fitted("whiten", patches)
    matrix = whitening.matrix.double()
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    # A symmetric positive definite matrix with this property is the ZCA matrix.
    torch.testing.assert_close(
        matrix @ shrunk(patches) @ matrix, torch.eye(12).double(), rtol=0, atol=1e-4
    )
    new = features(20, 12, seed=1)
    expected = new.double() @ matrix
    torch.testing.assert_close(whitening(new).double(), expected, rtol=1e-4, atol=1e-4)


def test_distances_of_whitened_features_are_those_of_mahalanobis() -> None:
    patches = features(300, 8)
    rows = fitted("whiten", patches)(patches)
    difference = patches[:150].double() - patches[150:].double()
    expected = (difference * torch.linalg.solve(shrunk(patches), difference.T).T).sum(1)
    found = (rows[:150] - rows[150:]).square().sum(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [5, 30, 2000])
def test_shrinkage(count: int) -> None:
    # scikit-learn omits the terms 2 / D.
    patches = torch.randn(count, 300, generator=torch.Generator().manual_seed(3)).double()
    patches *= torch.linspace(0.1, 3, 300)
    variances = torch.linalg.eigvalsh(covariance(patches)).clamp(min=0)
    expected = OAS().fit(patches.numpy()).shrinkage_
    assert oracle_approximating_shrinkage(variances, count) == pytest.approx(expected, rel=0.01)


def test_shrinkage_of_equal_variances_is_whole() -> None:
    for variances in (torch.ones(1), torch.ones(5), torch.zeros(4)):
        assert oracle_approximating_shrinkage(variances.double(), 100) == 1


@pytest.mark.parametrize("value", VALUES)
def test_blocks_matter_only_by_rounding(value: str) -> None:
    patches = features(40_000, 6)
    whole = fitted(value, patches)
    for blocks in (
        patches.split(7000),
        patches.split(7000)[::-1],
        patches[torch.randperm(40_000, generator=torch.Generator().manual_seed(0))].split(3001),
    ):
        other = fitted(value, *blocks)
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", VALUES)
def test_patches_are_read_once(value: str) -> None:
    passes = []

    class Blocks:
        def __iter__(self):
            passes.append(1)
            return iter(features(100, 5).split(30))

    module(value, 5).fit(Blocks())
    assert len(passes) == 1


@pytest.mark.parametrize("value", VALUES)
def test_the_number_of_threads_matters_only_by_rounding(value: str) -> None:
    patches = features(20_000, 56)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(fitted(value, *patches.split(4000))(patches))
        finally:
            torch.set_num_threads(before)
    difference = (found[0] - found[1]).abs().max()
    assert difference <= 1e-5 * found[0].abs().max()


@pytest.mark.parametrize("value", VALUES)
def test_a_feature_that_good_patches_hardly_have_does_not_decide_alone(value: str) -> None:
    patches = features(1000, 8)
    for index, column in enumerate((0.0, 7.0, 7.0)):
        patches[:, index] = column
    patches[::2, 2] += 1e-6  # rounding of a constant
    fit_on = fitted(value, patches)
    rows = fit_on(patches)
    assert torch.isfinite(rows).all()
    assert (rows - rows[0]).abs().max() < 10
    defect = patches[:1].clone()
    defect[0, :3] += patches.std(0).median()
    assert 1 < (fit_on(defect) - rows[0]).abs().max() < 1001


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "patches",
    [
        torch.full((50, 4), 3.0),
        torch.zeros(50, 4),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        torch.empty(0, 4),
    ],
    ids=["constant", "zeros", "one patch", "none"],
)
def test_patches_that_do_not_vary_change_nothing(value: str, patches: torch.Tensor) -> None:
    blocks = [patches] if len(patches) else []
    normalization = module(value, 4)
    normalization.fit([features(30, 4)])
    normalization.fit(blocks)
    new = features(10, 4)
    torch.testing.assert_close(normalization(new), new, rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", VALUES)
def test_fewer_patches_than_features(value: str) -> None:
    patches = features(5, 40)
    found = fitted(value, patches[:3], patches[3:])(features(100, 40, seed=1))
    assert torch.isfinite(found).all()
    assert found.abs().max() < 1e5


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: str, wrong: float) -> None:
    patches = features(30, 4)
    patches[7, 2] = wrong
    with pytest.raises(ValueError, match="NaN or infinity"):
        fitted(value, patches)


@pytest.mark.parametrize("wrong", [True, 1, "zca", "Whiten"])
def test_wrong_values(wrong: object) -> None:
    with pytest.raises(InputError, match=r"expected 'standardize', 'whiten' or None"):
        STEPS["normalization"].check(wrong)
