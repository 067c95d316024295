from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from autopatch.data import defect_samples, draw_textures
from autopatch.errors import InputError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    return folder


def test_masks_beside_the_images(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "a_mask.bmp", "scratch/b.jpg", "scratch/b_mask.png")
    first, second = defect_samples(tmp_path)
    assert (first.image, first.mask) == (tmp_path / "a.png", tmp_path / "a_mask.bmp")
    assert first.type == "defect"
    assert (second.image.name, second.mask.name, second.type) == ("b.jpg", "b_mask.png", "scratch")


def test_a_data_set(tmp_path: Path) -> None:
    root = draw_textures(tmp_path / "data", image_size=64, train=2, test_good=2, per_type=2)
    samples = defect_samples(root)
    assert sorted({sample.type for sample in samples}) == ["hole", "scratch", "stain"]
    assert len(samples) == 6
    for sample in samples:
        assert sample.mask.parent == root / "ground_truth" / sample.type
        assert sample.mask.stem.removesuffix("_mask") == sample.image.stem


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no image of a defect in this folder"),
        (["a.png"], r"a.png: no mask, expected .*a_mask.png$"),
        (["a.png", "a_mask.png", "b_mask.png"], r"b_mask.png: a mask without an image"),
        (["good/a.png", "good/a_mask.png"], "a good image, expected only images of defects"),
        (["a.png", "a.jpg", "a_mask.png"], "differs from it only in its suffix"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        defect_samples(make(tmp_path, *names))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x: no such folder, expected one with images of defects"):
        defect_samples(tmp_path / "x")
