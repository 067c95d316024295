from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import (
    MVTecAD,
    check,
    draw_textures,
    load_images,
    load_masks,
    make_split,
)
from autopatch.errors import InputError


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): np.asarray(Image.open(path)).tobytes() for path in files}


def test_is_a_sound_data_set(tmp_path: Path) -> None:
    root = draw_textures(tmp_path / "new" / "textures")
    assert [path.name for path in root.parent.iterdir()] == ["textures"]
    dataset = MVTecAD.scan(root)
    assert dataset.types == ("hole", "scratch", "stain")
    assert (len(dataset.train), len(dataset.test)) == (40, 12 + 3 * 8)
    assert check(dataset, evaluation_size=128).problems == ()
    make_split(dataset, shots=4)


def test_deterministic(tmp_path: Path) -> None:
    small = {"train": 2, "test_good": 1, "per_type": 1, "image_size": 48}
    first = contents(draw_textures(tmp_path / "a", seed=1, **small))
    assert first == contents(draw_textures(tmp_path / "b", seed=1, **small))
    other = contents(draw_textures(tmp_path / "c", seed=2, **small))
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_defects_are_small_and_stand_out(tmp_path: Path) -> None:
    dataset = MVTecAD.scan(draw_textures(tmp_path / "textures", seed=3))
    anomalous = [sample for sample in dataset.test if sample.mask]
    masks = load_masks(anomalous, 128)
    areas = masks.float().mean(dim=(1, 2))
    assert areas.min() > 0.0005
    assert areas.max() < 0.25
    images = load_images([sample.image for sample in anomalous], 128).float()
    normal = load_images([sample.image for sample in dataset.train], 128).float()
    mean = normal.mean(dim=(0, 2, 3))
    deviation = normal.std(dim=(0, 2, 3))
    for image, mask in zip(images, masks, strict=True):
        inside = ((image[:, mask].mean(dim=1) - mean) / deviation).abs().max()
        outside = ((image[:, ~mask].mean(dim=1) - mean) / deviation).abs().max()
        assert outside < 0.6
        assert inside > 0.2


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists, expected a new folder"):
        draw_textures(tmp_path)
    for name, value in (("image_size", 31), ("train", 0), ("test_good", -1), ("per_type", 0)):
        with pytest.raises(InputError, match=f"`{name}` is {value}"):
            draw_textures(tmp_path / "textures", **{name: value})
    with pytest.raises(InputError, match="`seed` is -1"):
        draw_textures(tmp_path / "textures", seed=-1)
    assert list(tmp_path.iterdir()) == []
