from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from autopatch.detector import STEPS, FeatureTransform, Head
from autopatch.errors import InputError
from autopatch.kernels import nearest_neighbors


@pytest.fixture
def unit() -> FeatureTransform:
    made = STEPS["distance"].features("cosine", 5, (5,))
    assert isinstance(made, FeatureTransform)
    made.fit(iter(()))
    return made


def test_squared_distances_of_unit_rows(unit: FeatureTransform) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(30, 5, generator=generator)
    bank = 100 * torch.randn(20, 5, generator=generator)
    found, rows = nearest_neighbors(unit(queries), unit(bank))
    cosines = F.cosine_similarity(queries[:, None].double(), bank[None].double(), dim=2)
    assert torch.equal(rows[:, 0], cosines.argmax(dim=1))
    expected = 2 * (1 - cosines.amax(dim=1))
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-4, atol=1e-6)


def test_rows_without_direction(unit: FeatureTransform) -> None:
    found = unit(torch.tensor([[0.0] * 5, [1e-30] * 5, [-0.0] * 5]))
    assert found.isfinite().all()
    assert found.abs().max() < 1e-6
    assert unit(torch.empty(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("wrong", [None, "l2", True, 1])
def test_wrong_distances(wrong: object) -> None:
    with pytest.raises(InputError, match="expected 'squared_l2' or 'cosine'"):
        STEPS["distance"].check(wrong)


def test_words() -> None:
    assert (
        Head((3,), 50, {"distance": "cosine"}).describe(["a"]) == "a p3, bank 50, cosine distance"
    )
    assert Head((3,), 50, {"distance": "squared_l2"}) == Head((3,), 50)
