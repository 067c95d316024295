from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import MVTecAD, Sample, load_images, load_masks, read_image, read_mask
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]
GREY = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4


def saved(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_agree(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(255 - GREY))
    assert (pixels(saved(tmp_path, image)) == GREY[..., None]).all()


def test_bilevel_palette_and_cmyk(tmp_path: Path) -> None:
    bilevel = Image.fromarray(GREY > 100)
    assert bilevel.mode == "1"
    assert (pixels(saved(tmp_path, bilevel)) == (GREY > 100)[..., None] * 255).all()

    palette = Image.fromarray(GREY % 3).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 0, 7, 7, 7])
    expected = np.array([[10, 20, 30], [200, 100, 0], [7, 7, 7]])[GREY % 3]
    for options in ({}, {"transparency": 1}, {"transparency": bytes([0, 128, 255])}):
        assert (pixels(saved(tmp_path, palette, **options)) == expected).all()

    cmyk = Image.new("CMYK", (4, 4), (0, 255, 0, 0))
    assert (pixels(saved(tmp_path, cmyk, "image.tif")) == (255, 0, 255)).all()


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.pgm"])
def test_16_bit_is_scaled(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    with Image.open(path) as image:
        assert image.mode in ("I;16", "I")
    assert (pixels(path)[0, :, 0] == [0, 0, 1, 1, 128, 255]).all()


def test_big_endian_16_bit(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([257, 65535], ">u2").tobytes())
    path = saved(tmp_path, image, "image.tif")
    assert (pixels(path)[0, :, 0] == [1, 255]).all()


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        (np.array([[0, 65536]], np.int32), "values 0 to 65536, expected 0 to 65535"),
        (np.array([[-1, 4]], np.int32), "values -1 to 4, expected 0 to 65535"),
        (np.array([[0.0, 1.0]], np.float32), "floating point values"),
    ],
)
def test_refused_values(tmp_path: Path, values: np.ndarray, pattern: str) -> None:
    path = saved(tmp_path, Image.fromarray(values), "image.tif")
    with pytest.raises(InputError, match=r"image.tif: " + pattern):
        read_image(path)


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    path = saved(tmp_path, Image.fromarray(GREY), exif=exif)
    assert (pixels(path)[..., 0] == np.rot90(GREY, -1)).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"image.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=rf"image\.{suffix}: (unreadable|not an image)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.png: no such file"):
        read_image(tmp_path / "none.png")
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(InputError, match=r"text.png: not an image"):
        read_image(path)


@pytest.mark.parametrize("high", [1, 128, 255])
def test_mask_values(tmp_path: Path, high: int) -> None:
    truth = GREY > 100
    mask = read_mask(saved(tmp_path, Image.fromarray(truth.astype(np.uint8) * np.uint8(high))))
    assert mask.mode == "L"
    assert (np.asarray(mask) == truth * 255).all()


def test_mask_modes(tmp_path: Path) -> None:
    truth = GREY > 100
    palette = Image.fromarray(truth.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    color = np.zeros((*truth.shape, 3), np.uint8)
    color[truth] = (0, 3, 200)
    for image in (
        Image.fromarray(truth),
        palette,
        Image.fromarray(color),
        Image.fromarray(color).convert("RGBA"),
        Image.fromarray(truth.astype(np.uint16)),
    ):
        assert (np.asarray(read_mask(saved(tmp_path, image))) == truth * 255).all()


def test_mask_may_cover_the_image(tmp_path: Path) -> None:
    assert (np.asarray(read_mask(saved(tmp_path, Image.new("L", (3, 3), 255)))) == 255).all()


def test_mask_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image.png: no anomalous pixel"):
        read_mask(saved(tmp_path, Image.new("L", (4, 4))))
    for values in ([0, 1, 255], [1, 255]):
        path = saved(tmp_path, Image.fromarray(np.array([values], np.uint8)))
        with pytest.raises(InputError, match=rf"not binary, {len(values)} different values"):
            read_mask(path)
    colors = np.array([[[0, 0, 0], [255, 0, 0], [0, 255, 0]]], np.uint8)
    with pytest.raises(InputError, match="not binary, 3 different values"):
        read_mask(saved(tmp_path, Image.fromarray(colors)))


def test_load_images_is_pil_bilinear(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths, expected = [], []
    for index, (height, width) in enumerate([(30, 20), (7, 11), (16, 16)]):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        paths.append(saved(tmp_path, image, f"{index}.png"))
        expected.append(np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)))
    images = load_images(paths, 16)
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 16, 16)
    assert (images.permute(0, 2, 3, 1).numpy() == np.stack(expected)).all()


def test_load_images_of_nothing_and_mistakes(tmp_path: Path) -> None:
    assert load_images([], 8).shape == (0, 3, 8, 8)
    with pytest.raises(InputError, match="image_size: 0"):
        load_images([], 0)
    with pytest.raises(InputError, match=r"none.png: no such file"):
        load_images([tmp_path / "none.png"], 8)


def test_load_masks(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 30:33] = 255
    mask = saved(tmp_path, Image.fromarray(truth), "mask.png")
    image = tmp_path / "not-read.png"
    masks = load_masks([Sample(image, "good"), Sample(image, "dent", mask)], 16)
    assert masks.dtype == torch.bool
    assert masks.shape == (2, 16, 16)
    assert not masks[0].any()
    resized = Image.fromarray(truth).resize((16, 16), Image.Resampling.BILINEAR)
    assert (masks[1].numpy() == (np.asarray(resized) > 0)).all()
    assert masks[1].float().mean() > (truth > 0).mean()


def test_load_masks_refuses_a_mask_that_vanishes(tmp_path: Path) -> None:
    truth = np.zeros((400, 400), np.uint8)
    truth[7, 7] = 255
    sample = Sample(tmp_path / "image.png", "dent", saved(tmp_path, Image.fromarray(truth)))
    assert load_masks([sample], 200).any()
    with pytest.raises(InputError, match=r"image.png: the anomalous pixels .* vanish at 8 x 8"):
        load_masks([sample], 8)


def test_real_images(shared_data: Path) -> None:
    dataset = MVTecAD.scan(shared_data / "magnetic_tile")
    anomalous = [sample for sample in dataset.test if sample.mask][::10]
    images = load_images([sample.path for sample in anomalous], 64)
    assert images.float().std(dim=(1, 2, 3)).min() > 1
    assert load_masks(anomalous).flatten(1).any(1).all()
