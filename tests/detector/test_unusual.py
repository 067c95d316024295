from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from autopatch.detector.unusual import distances_to_others, highest_usual, patch_coresets
from autopatch.kernels import nearest_neighbors


def features(images: int, *, seed: int = 0, places: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, places, 8, generator=generator)


def distances(
    patches: torch.Tensor,
    related: list[tuple[int, ...]],
    told: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    return distances_to_others(patches, patch_coresets(patches), related, seed=0, told=told)


def test_a_coreset_of_each_image() -> None:
    patches = features(3)
    rows = patch_coresets(patches)
    assert rows.shape == (3, 4, 8)
    for image, chosen in zip(patches, rows, strict=True):
        assert nearest_neighbors(chosen, image)[0].max() == 0
        assert len(chosen.unique(dim=0)) == 4
        nearest = (image - image.mean(dim=0)).square().sum(dim=1).argmin()
        torch.testing.assert_close(chosen[0], image[nearest])
    assert patch_coresets(features(2, places=3)).shape == (2, 1, 8)


def test_each_image_is_searched_in_the_others() -> None:
    patches = features(7)
    told: list[tuple[int, int]] = []
    found = distances(patches, [(image,) for image in range(7)], lambda *step: told.append(step))
    rows = patch_coresets(patches)
    for image in range(7):
        others = torch.cat([rows[other] for other in range(7) if other != image])
        torch.testing.assert_close(found[image], nearest_neighbors(patches[image], others)[0][:, 0])
    assert told == [(done, 7) for done in range(8)]


def test_related_images_are_not_compared() -> None:
    patches = features(6)
    patches[1] = patches[0]
    alone = distances(patches, [(image,) for image in range(6)])
    assert alone[0].min() == 0
    related = distances(patches, [(0, 1), (2,), (3,), (4,), (5,)])
    assert related[:2].min() > 0
    torch.testing.assert_close(related[0], related[1])


def test_many_images_are_in_few_folds() -> None:
    told: list[tuple[int, int]] = []
    patches = features(50, places=10)
    found = distances(patches, [(image,) for image in range(50)], lambda *step: told.append(step))
    assert len(told) == 21
    assert told[-1] == (50, 50)
    assert (found > 0).any(dim=1).all()


def test_the_limit_of_scores_that_follow_the_model() -> None:
    quantiles = (np.arange(1000) + 0.5) / 1000
    scores = np.exp(1 + 0.5 * torch.special.ndtri(torch.from_numpy(quantiles)).numpy())
    # 0.5 of 1000 are expected above 3.29 standard deviations.
    assert math.log(highest_usual(scores)) == pytest.approx(1 + 0.5 * 3.29, rel=0.01)
    assert highest_usual(7 * scores) == pytest.approx(7 * highest_usual(scores))


def test_neither_unusual_nor_very_usual_images_hide_an_unusual_one() -> None:
    rng = np.random.default_rng(0)
    scores = np.exp(0.3 * rng.standard_normal(100))
    limit = highest_usual(scores)
    assert highest_usual(np.append(scores, [50.0] * 8)) < 1.3 * limit
    assert highest_usual(np.where(scores < 0.9, 1e-6, scores)) == pytest.approx(limit)


def test_equal_scores() -> None:
    assert 1.2 < highest_usual(np.ones(50)) < 1.4
    assert highest_usual(np.ones(1)) >= 1
    for wrong in ([], [1.0, 0.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="above 0"):
            highest_usual(np.array(wrong))
