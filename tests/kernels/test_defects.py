from __future__ import annotations

import numpy as np
import pytest
import torch

from autopatch.kernels import (
    NearestNeighborIndex,
    combined_scores,
    defect_scores,
    mean_distances,
    reference,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("neighbors", [1, 3])
@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
def test_scores_equal_the_reference(backend: torch.device, weight: float, neighbors: int) -> None:
    arrays = normal(300, 24), normal(2000, 24, seed=1), normal(90, 24, seed=2)
    queries, bank, defects = (array.to(backend) for array in arrays)
    expected = reference.defect_scores(*arrays, weight=weight, usual=8.0, neighbors=neighbors)
    for index in (bank, NearestNeighborIndex(bank)):
        found = defect_scores(
            queries, index, defects, weight=weight, usual=8.0, neighbors=neighbors
        )
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one.double().cpu(), other, rtol=1e-5, atol=0)


def test_the_forms_of_the_score() -> None:
    good, defect = torch.rand(50) * 9, torch.rand(50) * 9
    m = 3.5
    half = combined_scores(good, defect, weight=0.5, usual=m)
    torch.testing.assert_close(half, good * m**0.5 / (defect + m).sqrt(), rtol=1e-6, atol=0)
    one = combined_scores(good, defect, weight=1.0, usual=m)
    torch.testing.assert_close(one, good * m / (defect + 2 * m), rtol=1e-6, atol=0)


def test_known_defects_score_higher_and_others_keep_their_order() -> None:
    queries, bank = normal(40, 8), normal(500, 8, seed=1)
    defects = queries[:5] + 0.01
    scores, good, defect = defect_scores(queries, bank, defects, weight=0.5, usual=1.0)
    assert (defect[:5] < 1e-2).all()
    ratio = scores / good
    assert ratio[:5].min() > ratio[5:].max()


def test_scores_of_numpy_arrays() -> None:
    queries, bank, defects = normal(7, 5), normal(30, 5, seed=1), normal(4, 5, seed=2)
    arrays = defect_scores(
        queries.numpy(), bank.numpy(), defects.numpy(), weight=0.5, usual=2.0, neighbors=2
    )
    tensors = defect_scores(queries, bank, defects, weight=0.5, usual=2.0, neighbors=2)
    for array, tensor in zip(arrays, tensors, strict=True):
        assert isinstance(array, np.ndarray)
        assert np.array_equal(array, tensor.numpy())


def test_no_default_of_torch_changes_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = normal(50, 12), normal(200, 12, seed=1), normal(9, 12, seed=2)
    expected = defect_scores(*arrays, weight=0.5, usual=2.0, neighbors=3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = defect_scores(*arrays, weight=0.5, usual=2.0, neighbors=3)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_means_of_fewer_rows_than_neighbors() -> None:
    queries, bank = normal(20, 4), normal(3, 4, seed=1)
    expected = reference.nearest_neighbors(queries, bank, 3)[0].mean(dim=1)
    found = mean_distances(queries, bank, 16)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight` is 0.0, expected a finite number above 0"),
        ({"usual": float("nan")}, "`usual` is nan"),
        ({"neighbors": 0}, "`k` is 0"),
    ],
)
def test_values_out_of_range(options: dict[str, float], message: str) -> None:
    given = {"weight": 0.5, "usual": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        defect_scores(normal(3, 4), normal(5, 4), normal(2, 4), **given)


def test_scores_in_an_exported_program() -> None:
    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", normal(40, 6, seed=1))
            self.register_buffer("defects", normal(5, 6, seed=2))

        def forward(self, queries: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = defect_scores(
                queries, self.bank, self.defects, weight=0.5, usual=1.0, neighbors=2
            )[0]
            return found

    module, queries = Scores(), normal(11, 6)
    exported = torch.export.export(module, (queries,)).module()
    assert torch.equal(exported(queries), module(queries))
