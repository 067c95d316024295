from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import Sample
from autopatch.report import ColorScale, draw_cases, rank_cases

SIZE = 16


def make_data(types: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Maps that find the anomaly less well in each later image."""
    rng = np.random.default_rng(0)
    maps = rng.random((len(types), SIZE, SIZE), dtype=np.float32)
    masks = np.zeros((len(types), SIZE, SIZE), bool)
    for i, kind in enumerate(types):
        if kind != "good":
            masks[i, 4:8, 4:8] = True
            maps[i, 4:8, 4:8] += 1 - 2 * i / len(types)
        else:
            maps[i] += i
    return maps, masks


def test_anomalous_images_by_their_own_ap_and_good_ones_by_their_score() -> None:
    types = ["crack", "good", "dent", "good", "crack"]
    maps, masks = make_data(types)
    ranking = rank_cases(maps, masks, types, maps.max((1, 2)).tolist())
    assert [index for index, _ in ranking.anomalous] == [0, 2, 4]
    assert ranking.good == (3, 1)
    values = [value for _, value in ranking.anomalous]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    # Step-wise AP of the last one, recomputed.
    order = np.argsort(-maps[4].ravel(), kind="stable")
    hits = masks[4].ravel()[order]
    precision = hits.cumsum() / np.arange(1, hits.size + 1)
    assert values[2] == pytest.approx(precision[hits].mean(), rel=1e-6)


def test_an_image_whose_mask_vanished_is_left_out() -> None:
    types = ["crack", "crack", "good"]
    maps, masks = make_data(types)
    masks[0] = False
    ranking = rank_cases(maps, masks, types, [1.0, 2.0, 3.0])
    assert [index for index, _ in ranking.anomalous] == [1]


def test_ranking_of_nothing_and_of_unequal_numbers() -> None:
    empty = np.zeros((0, 4, 4))
    ranking = rank_cases(empty.astype(np.float32), empty.astype(bool), [], [])
    assert ranking.anomalous == ranking.good == ()
    with pytest.raises(ValueError, match="2, 2, 1 and 2"):
        rank_cases(np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), bool), ["good"], [1, 2])


@pytest.mark.parametrize(
    ("anomalous", "good", "expected"),
    [(9, 5, [3, 3, 3]), (3, 1, [1, 2, 1]), (1, 0, [1]), (0, 2, [2]), (0, 0, [])],
)
def test_no_image_is_drawn_twice(
    anomalous: int, good: int, expected: list[int], tmp_path: Path
) -> None:
    types = ["crack"] * anomalous + ["good"] * good
    maps, masks = make_data(types)
    samples = []
    for i, kind in enumerate(types):
        path = tmp_path / f"{i}.png"
        Image.new("L", (20, 30), 100).save(path)
        samples.append(Sample(path, kind, path if kind != "good" else None))
    scale = ColorScale(0.0, 3.0)
    scores = maps.max((1, 2))
    cases = draw_cases(samples, maps, masks, scores, scale, threshold=1.0, count=3)
    assert [len(group.panels) for group in cases] == expected
    names = [text.split(",")[0] for group in cases for text, _ in group.panels]
    assert len(set(names)) == len(names)
    again = draw_cases(samples, maps, masks, scores, scale, threshold=1.0, count=3)
    for group, other in zip(cases, again, strict=True):
        for (_, picture), (_, same) in zip(group.panels, other.panels, strict=True):
            assert picture.tobytes() == same.tobytes()
    warned = draw_cases(samples, maps, masks, scores, scale, threshold=1.0, count=3, warning="NB")
    for group, other in zip(cases, warned, strict=True):
        for (text, picture), (warning, marked) in zip(group.panels, other.panels, strict=True):
            assert (text.endswith("NB"), warning.endswith("NB")) == (False, True)
            assert picture.tobytes() != marked.tobytes()
