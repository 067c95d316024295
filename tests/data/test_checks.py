from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import MVTecAD, check, require_valid
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]


def test_sound(make_dataset: MakeDataset) -> None:
    dataset = MVTecAD.scan(make_dataset())
    assert check(dataset) == []
    require_valid(dataset)


def test_each_problem_is_one_line(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    image = root / "train/good/004.png"
    image.write_bytes(image.read_bytes()[:-30])
    truth = root / "ground_truth/crack"
    Image.new("L", (8, 12), 255).save(truth / "001_mask.png")
    Image.new("L", (12, 8), 0).save(truth / "002_mask.png")
    ramp = np.linspace(0, 255, 96).astype(np.uint8).reshape(8, 12)
    Image.fromarray(ramp).save(truth / "003_mask.png")
    (truth / "004_mask.png").write_bytes(b"")
    dataset = MVTecAD.scan(root)
    problems = check(dataset)
    expected = [
        ("004.png", "truncated"),
        ("001_mask.png", "the mask is 8 x 12 pixels, expected 12 x 8 as its image"),
        ("002_mask.png", "no anomalous pixel"),
        ("003_mask.png", "not binary"),
        ("004_mask.png", "not an image"),
    ]
    assert len(problems) == len(expected)
    for problem, (name, text) in zip(problems, expected, strict=True):
        assert name in problem
        assert text in problem
        assert "\n" not in problem
    with pytest.raises(InputError, match=r"004.png: .*truncated.* \(and 4 more problems\)"):
        require_valid(dataset)


def test_mask_too_small_for_the_evaluation_size(make_dataset: MakeDataset) -> None:
    root = make_dataset(anomalies={"dent": 1}, size=(300, 300))
    dataset = MVTecAD.scan(root)
    assert check(dataset) == []
    (problem,) = check(dataset, evaluation_size=1)
    assert "vanish at 1 x 1" in problem


@pytest.mark.parametrize("name", ["magnetic_tile", "dagm_class1"])
def test_real_data_is_sound(shared_data: Path, name: str) -> None:
    assert check(MVTecAD.scan(shared_data / name)) == []
