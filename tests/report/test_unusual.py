from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.errors import InputError
from autopatch.report import ColorScale, write_unusual


def maps(*scores: float) -> np.ndarray:
    found = np.full((len(scores), 32, 32), 0.5, np.float32)
    found[:, 8:16, 8:16] = np.array(scores, np.float32)[:, None, None]
    return found


def test_images_and_maps_in_rows(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 40), (90, 90, 90))
    scale = ColorScale(0.5, 5.0)
    sizes = []
    for count in (1, 2, 3):
        path = write_unusual(
            [("name.png", picture)] * count,
            maps(*[3.0] * count),
            tmp_path / f"{count}.png",
            scale=scale,
            limit=2.0,
        )
        with Image.open(path) as sheet:
            sizes.append(sheet.size)
    (width, height), *others = sizes
    assert others == [(2 * width, height), (2 * width, 2 * height)]


def test_only_regions_above_the_limit_are_outlined(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), (0, 0, 0))

    def white_pixels(score: float) -> int:
        path = write_unusual(
            [("", picture)], maps(score), tmp_path / "a.png", scale=ColorScale(0.5, 5.0), limit=2.0
        )
        pixels = np.asarray(Image.open(path))[100:300, 330:600]
        return int((pixels > 200).all(axis=2).sum())

    assert white_pixels(1.9) == 0
    assert white_pixels(3.0) > 100


def test_mistakes(tmp_path: Path) -> None:
    scale = ColorScale(0.5, 5.0)
    with pytest.raises(InputError, match="`images` is empty"):
        write_unusual([], maps(), tmp_path / "a.png", scale=scale, limit=2.0)
    with pytest.raises(InputError, match="cannot be written"):
        write_unusual(
            [("a", Image.new("L", (9, 9)))],
            maps(1.0),
            tmp_path / "nowhere" / "a.png",
            scale=scale,
            limit=2.0,
        )
