from __future__ import annotations

import pytest
import torch

from autopatch.detector import STEPS, FeatureTransform, Head
from autopatch.errors import InputError


def test_weighted_features() -> None:
    patches = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    weighting = STEPS["level_weight"].features((0.5, 1, 3.0), 6, (1, 2, 3))
    assert isinstance(weighting, FeatureTransform)
    weighting.fit(iter(()))
    expected = torch.cat([patches[:, :1] / 2, patches[:, 1:3], patches[:, 3:] * 3], dim=1)
    assert torch.equal(weighting(patches), expected)


def test_weights_of_levels_that_are_whitened_apart() -> None:
    # Whitening keeps the features of a level in their place.
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(5000, 3, generator=generator), torch.randn(5000, 2, generator=generator)]
    levels[1] = levels[1] @ torch.tensor([[20.0, 0.0], [19.0, 1.0]])
    patches = torch.cat(levels, dim=1)
    normalization = STEPS["normalization"].features("whiten", 5, (3, 2))
    weighting = STEPS["level_weight"].features((1.0, 0.1), 5, (3, 2))
    assert isinstance(normalization, FeatureTransform)
    assert isinstance(weighting, FeatureTransform)
    normalization.fit([patches])
    found = weighting(normalization(patches)).var(0)
    torch.testing.assert_close(found, torch.tensor([1, 1, 1, 0.01, 0.01]), rtol=0.1, atol=0)


@pytest.mark.parametrize("wrong", [0, -1, 101, float("nan"), float("inf"), True, "1", None])
def test_wrong_weights(wrong: object) -> None:
    with pytest.raises(InputError, match=r"expected a number from 0\.01 to 100"):
        STEPS["level_weight"].check(wrong)


def test_weights_of_one_are_off() -> None:
    assert Head((3, 3), 50, {"level_weight": (1, 1.0)}) == Head((3, 3), 50)
    weighted = Head((3, 3), 50, {"level_weight": (1, 0.5)})
    assert weighted.describe(["a", "b"]) == "a p3 + b p3, bank 50, levels weighted 1 0.5"
