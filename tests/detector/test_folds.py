"""Folds of good images, and their distances to banks without them."""

from __future__ import annotations

import pytest
import torch

from autopatch.detector import GoodMaps, Head, PatchAggregator, batches_of
from autopatch.detector.folds import FOLDS, draw_folds, fold_distances, related_images
from autopatch.kernels import reference


def test_copies_and_groups_are_related() -> None:
    digests = [b"a", b"b", b"c", b"b", b"d", b"e", b"a"]
    assert related_images(digests, [None] * 7) == [(0, 6), (1, 3), (2,), (4,), (5,)]
    groups = ["x", None, "x", "y", None, "y", None]
    assert related_images(digests, groups) == [(0, 2, 6), (1, 3, 5), (4,)]
    groups[4], groups[6] = "y", "y"  # 6 is a copy of 0
    assert related_images(digests, groups) == [(0, 1, 2, 3, 4, 5, 6)]
    assert related_images([], []) == []


def test_a_group_is_not_a_picture_of_the_same_name() -> None:
    assert related_images([b"a", b"b"], [None, "a"]) == [(0,), (1,)]


@pytest.mark.parametrize("count", [2, 3, 5, 6, 23, 101])
def test_folds_of_single_images_are_balanced(count: int) -> None:
    folds = draw_folds([(i,) for i in range(count)], 1)
    assert len(folds) == min(FOLDS, count)
    assert sorted(i for fold in folds for i in fold) == list(range(count))
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert all(list(fold) == sorted(fold) for fold in folds)


def test_sets_stay_together_and_fold_sizes_are_near() -> None:
    related = [tuple(range(first, first + 3)) for first in range(0, 30, 3)]
    related += [(i,) for i in range(30, 51)]
    for seed in range(5):
        folds = draw_folds(related, seed)
        for one in related:
            assert sum(set(one) <= set(fold) for fold in folds) == 1
        assert {len(fold) for fold in folds} <= {10, 11}


def test_folds_follow_the_seed() -> None:
    single = [(i,) for i in range(30)]
    assert draw_folds(single, 4) == draw_folds(single, 4)
    assert len({draw_folds(single, seed) for seed in range(5)}) == 5
    # The order of the images does not decide.
    assert draw_folds(single, 4)[0] != tuple(range(0, 30, 5))


@pytest.mark.parametrize(("bank_size", "neighbors"), [(None, 2), (40, 1), (40, 3), (2, 5)])
def test_a_fold_is_searched_in_the_coreset_of_the_others(
    bank_size: int | None, neighbors: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(20, 5, 8, 8, generator=generator),
        torch.randn(20, 7, 4, 4, generator=generator),
    ]
    good = GoodMaps(
        batches_of(maps, 7), channels=(5, 7), patches=20 * 64, device=torch.device("cpu")
    )
    folds = draw_folds([(i,) for i in range(20)], 2)[:3]
    folds = (*folds, tuple(sorted({*range(20)} - {i for fold in folds for i in fold})))
    head = Head((3, 1), bank_size, neighbors=neighbors)
    told: list[tuple[int, int]] = []
    found = fold_distances(
        good, PatchAggregator((3, 1)), head, folds, told=lambda *step: told.append(step)
    )
    rows = reference.aggregate_patches(maps, (3, 1)).reshape(20, 64, 12)
    k = min(neighbors, bank_size or neighbors)
    assert found.shape == (20, 64, k)
    for fold in folds:
        bank = rows[[i for i in range(20) if i not in fold]].flatten(0, 1)
        if bank_size is not None:
            start = int((bank - bank.mean(0)).square().sum(1).argmin())
            bank = bank[reference.greedy_coreset(bank, bank_size, start=start)[0]]
        expected, _ = reference.nearest_neighbors(rows[list(fold)].flatten(0, 1), bank, k)
        torch.testing.assert_close(
            found[list(fold)].flatten(0, 1).double(), expected, rtol=1e-4, atol=1e-5
        )
    assert told[0] == (0, 20)
    assert told[-1] == (20, 20)
    assert {done for done, _ in told} >= {0, 4, 8, 12, 20}
