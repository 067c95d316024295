"""Packed images and their feature maps."""

from __future__ import annotations

import pytest
import torch

from autopatch.detector import packed
from autopatch.detector.packed import PackedImages, PackedMaps
from autopatch.errors import InputError
from autopatch.supernet import Backbone, Subnet, load_supernet

NAME = "timm:test_efficientnet"


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """36 images; every second one is gray."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (36, 3, 40, 32), dtype=torch.uint8, generator=generator)
    pixels[::2] = pixels[::2, :1]
    return pixels


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return load_supernet(NAME, "random", seed=2).get_active_subnet(Backbone(NAME, (1, 3)))


def test_nothing_is_lost(pixels: torch.Tensor) -> None:
    told: list[tuple[int, int]] = []
    images = PackedImages.of(pixels.split(16), 36, lambda *step: told.append(step))
    assert len(images) == 36
    assert told == [(16, 36), (32, 36), (36, 36)]
    batches = images.batches(10)
    assert [(batch.start, batch.stop) for batch in batches] == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 36),
    ]
    assert torch.equal(torch.cat([images.pixels(batch) for batch in batches]), pixels)
    assert int(images.sizes.sum()) == len(images.files)


def test_gray_and_smooth_images_take_less(pixels: torch.Tensor) -> None:
    images = PackedImages.of([pixels, torch.full_like(pixels[:1], 7)], 37)
    sizes = images.sizes.tolist()
    assert max(sizes[:36:2]) < min(sizes[1:36:2]) / 2
    assert sizes[-1] < 200


def test_a_damaged_image(pixels: torch.Tensor) -> None:
    images = PackedImages.of([pixels[:3]], 3)
    for place in (0, 60, int(images.sizes[0]) - 20):
        files = images.files.clone()
        files[place] ^= 1
        damaged = PackedImages(files, images.sizes)
        with pytest.raises(InputError, match="a packed image is damaged; fit the detector again"):
            damaged.pixels(range(2))
        assert torch.equal(damaged.pixels(range(1, 3)), pixels[1:3])
    other = PackedImages.of([pixels[:1], pixels[:1, :, :8]], 2)
    with pytest.raises(InputError, match="damaged"):
        other.pixels(range(2))


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_maps_that_fit_are_computed_once(
    pixels: torch.Tensor, subnet: Subnet, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(packed, "images_at_a_time", lambda device: 16)
    images = PackedImages.of([pixels], 36)
    with torch.inference_mode():
        expected = [subnet(subnet.normalize(batch)) for batch in pixels.split(16)]
    size = sum(m.nbytes for m in expected[0])
    told: list[tuple[int, int]] = []
    # The last batch is the smallest.
    memory = kept * size if kept < 3 else sum(m.nbytes for maps in expected for m in maps)
    maps = PackedMaps(subnet, images, memory_bytes=memory, told=lambda *step: told.append(step))
    for again in range(2):
        for found, wanted in zip(maps, expected, strict=True):
            assert all(torch.equal(m, w) for m, w in zip(found, wanted, strict=True))
        steps = [(16, 36), (32, 36), (36, 36)]
        assert told == (steps[kept:] if again else steps)
        told.clear()
