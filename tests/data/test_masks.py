from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from autopatch.data import Cells, Reading, Sample, load_masks, read_mask, to_mask
from autopatch.data.masks import resize_mask
from autopatch.errors import InputError

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
COLORS = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


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


def test_the_message_of_a_grey_mask_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not binary.*`mask_threshold` 127"):
        read_mask(saved(tmp_path, Image.fromarray(GREY)))


def test_a_grey_mask_that_its_alpha_repeats(tmp_path: Path) -> None:
    grey = TRUTH.astype(np.uint8) * np.uint8(255)
    grey[TRUTH.nonzero()[0][0], TRUTH.nonzero()[1][0]] = 100
    for color in (np.dstack([grey] * 3), np.dstack([grey, grey // 2, 0 * grey])):
        path = saved(tmp_path, Image.fromarray(np.dstack([color, grey])))
        with pytest.raises(InputError, match=r"not binary, 3 .*`mask_threshold` 127"):
            read_mask(path)
        found = np.asarray(read_mask(path, Reading(mask_threshold=127)))
        assert (found == (grey == 255) * 255).all()


def test_mask_threshold(tmp_path: Path) -> None:
    reading = Reading(mask_threshold=100)
    path = saved(tmp_path, Image.fromarray(GREY))
    assert (np.asarray(read_mask(path, reading)) == (GREY > 100) * 255).all()
    jpeg = np.zeros((32, 32), np.uint8)
    jpeg[8:24, 8:24] = 255
    path = saved(tmp_path, Image.fromarray(jpeg), "mask.jpg")
    assert (np.asarray(read_mask(path, Reading(mask_threshold=127))) == jpeg).all()
    color = np.zeros((4, 4, 3), np.uint8)
    color[1, 2] = (0, 0, 200)
    color[2, 2] = (90, 90, 90)
    found = np.asarray(read_mask(saved(tmp_path, Image.fromarray(color)), reading))
    assert np.argwhere(found).tolist() == [[1, 2]]
    deep = Image.fromarray(np.array([[0, 101, 60000]], np.uint16))
    assert np.asarray(read_mask(saved(tmp_path, deep), reading)).tolist() == [[0, 255, 255]]
    with pytest.raises(InputError, match=r"no anomalous pixel above 250 in the mask"):
        read_mask(saved(tmp_path, Image.fromarray(GREY)), Reading(mask_threshold=250))


TRUTH = GREY > 100


@pytest.mark.parametrize("color", [0, 70, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_over_a_constant_color_is_the_mask(tmp_path: Path, mode: str, color: int) -> None:
    image = Image.new("L", (10, 6), color).convert(mode)
    image.putalpha(Image.fromarray(TRUTH.astype(np.uint8) * np.uint8(255)))
    path = saved(tmp_path, image)
    assert (np.asarray(read_mask(path)) == TRUTH * 255).all()
    image.putalpha(Image.fromarray(GREY))
    path = saved(tmp_path, image)
    with pytest.raises(InputError, match="not binary"):
        read_mask(path)
    found = read_mask(path, Reading(mask_threshold=100))
    assert (np.asarray(found) == TRUTH * 255).all()


def test_alpha_of_16_bits_over_a_constant_color(
    tmp_path: Path, png_of_16_bits: Callable[[Path, np.ndarray], Path]
) -> None:
    values = np.zeros((*TRUTH.shape, 4), np.uint16)
    values[..., 3] = TRUTH * 65535
    path = png_of_16_bits(tmp_path / "mask.png", values)
    assert (np.asarray(read_mask(path)) == TRUTH * 255).all()


def test_two_masks_in_one_file(tmp_path: Path) -> None:
    white = TRUTH.astype(np.uint8) * np.uint8(255)
    image = Image.fromarray(np.dstack([white, white, white, white.copy()]))
    assert (np.asarray(read_mask(saved(tmp_path, image))) == white).all()
    image.putalpha(Image.fromarray(white[::-1]))
    path = saved(tmp_path, image)
    for reading in (Reading(), Reading(mask_threshold=9)):
        with pytest.raises(InputError, match=r"image.png: color and alpha of the mask both vary"):
            read_mask(path, reading)


def test_a_transparent_color_is_alpha(tmp_path: Path) -> None:
    palette = Image.fromarray(TRUTH.astype(np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 9, 9, 9])
    path = saved(tmp_path, palette, transparency=0)
    assert (np.asarray(read_mask(path)) == TRUTH * 255).all()


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_exif_of_a_mask(tmp_path: Path, exif: str, name: str) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    white = TRUTH.astype(np.uint8) * np.uint8(255)
    found = read_mask(saved(tmp_path, Image.fromarray(white), name, exif=tag), Reading(exif=exif))
    assert (np.asarray(found) == (np.rot90(white, -1) if exif == "apply" else white)).all()


ANY = Reading(mask_resize="any")


def test_load_masks(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 30:33] = 255
    mask = saved(tmp_path, Image.fromarray(truth), "mask.png")
    image = tmp_path / "not-read.png"
    samples = [Sample(image, "good"), Sample(image, "dent", mask)]
    masks = load_masks(samples, 16)
    assert masks.dtype == torch.bool
    assert masks.shape == (2, 16, 16)
    assert not masks[0].any()
    # The region covers 0.8 of each of 4 x 1 pixels.
    assert masks[1].nonzero().tolist() == [[row, 8] for row in range(4, 8)]
    assert (load_masks(samples[1], 16) == masks[1:]).all()


def test_the_rule_of_the_published_code(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 30:33] = 255
    mask = saved(tmp_path, Image.fromarray(truth), "mask.png")
    (found,) = load_masks(Sample(tmp_path / "not-read.png", "dent", mask), 16, ANY)
    resized = Image.fromarray(truth).resize((16, 16), Image.Resampling.BILINEAR)
    assert (found.numpy() == (np.asarray(resized) > 0)).all()
    assert found.float().mean() > (truth > 0).mean()


def test_a_mask_vanishes_by_the_published_rule_alone(tmp_path: Path) -> None:
    truth = np.zeros((400, 400), np.uint8)
    truth[7, 7] = 255
    sample = Sample(tmp_path / "image.png", "dent", saved(tmp_path, Image.fromarray(truth)))
    assert load_masks([sample], 200, ANY).any()
    with pytest.raises(InputError, match=r"image.png: the anomalous pixels .* vanish at 8 x 8"):
        load_masks([sample], 8, ANY)
    assert load_masks([sample], 8).nonzero().tolist() == [[0, 0, 0]]


def resized(truth: np.ndarray, size: int = 64) -> np.ndarray:
    mask = Image.fromarray(truth.astype(np.uint8) * np.uint8(255))
    return resize_mask(mask, size, Sample(Path("image.png"), "dent", Path("mask.png")))


@pytest.mark.parametrize("angle", [0, 0.3, 0.8, 1.3])
@pytest.mark.parametrize("width", [5, 8, 20])
def test_a_scratch_keeps_its_area(width: int, angle: float) -> None:
    image = Image.new("L", (300, 240))
    dx, dy = 90 * np.cos(angle), 90 * np.sin(angle)
    ImageDraw.Draw(image).line([150 - dx, 120 - dy, 150 + dx, 120 + dy], fill=1, width=width)
    truth = np.asarray(image) > 0
    found = resized(truth)
    assert label_count(found) == 1
    assert found.mean() == pytest.approx(truth.mean(), rel=0.3 if width == 5 else 0.1)
    by_any = np.asarray(image.point(lambda v: 255 * v).resize((64, 64), 2)) > 0
    assert by_any.mean() > 1.3 * found.mean()


def test_a_scratch_thinner_than_a_pixel_is_a_line_of_one_pixel() -> None:
    truth = np.zeros((640, 640), bool)
    truth[100, 50:600] = True
    assert np.argwhere(resized(truth)).tolist() == [[10, column] for column in range(5, 60)]


def test_each_region_is_kept() -> None:
    truth = np.zeros((640, 640), bool)
    truth[100:300, 100:300] = True
    truth[500, 500] = truth[5:12, 5:12] = True
    found = resized(truth)
    assert found[50, 50]
    assert found[0, 0] or found[0, 1] or found[1, 0]
    assert label_count(found) == 3
    assert found[10:30, 10:30].all()
    assert 400 <= found[10:31, 10:31].sum() <= 441


def test_a_speck_grows_to_a_pixel() -> None:
    truth = np.zeros((640, 640), bool)
    truth[::40, ::40] = truth[9, 203] = True
    found = resized(truth)
    expected = np.zeros((64, 64), bool)
    expected[::4, ::4] = True
    expected[0, 20] = True
    assert (found == expected).all()


def test_masks_of_their_own_size_and_larger_ones() -> None:
    truth = np.random.default_rng(0).random((64, 64)) > 0.9
    assert (resized(truth) == truth).all()
    assert (resized(truth, 128) == np.kron(truth, np.ones((2, 2), bool))).all()


def label_count(mask: np.ndarray) -> int:
    return int(ndimage.label(mask, np.ones((3, 3)))[1])


def cells_of(pixels, height, width):
    mask = Image.fromarray(np.asarray(pixels, np.uint8) * np.uint8(255))
    return Cells.of(mask, height, width)


def test_cells_that_are_half_anomalous():
    pixels = np.zeros((40, 40), bool)
    pixels[8:16, 8:14] = True  # of cells of 4 pixels: 2 x 1 whole ones, and 2 x 1 by half
    cells = cells_of(pixels, 10, 10)
    expected = np.zeros((10, 10), bool)
    expected[2:4, 2:4] = True
    assert np.array_equal(cells.anomalous, expected)
    assert not cells.good[0:6, 0:6].any()  # up to two cells away
    assert cells.good[6:].all()
    assert cells.good[:, 6:].all()


def test_a_region_smaller_than_a_cell_has_its_most_covered_cells():
    pixels = np.zeros((40, 40), bool)
    pixels[1, 1:6] = True  # three pixels in one cell, two in the next
    pixels[30:38, 20:36] = True
    cells = cells_of(pixels, 10, 10)
    assert cells.anomalous[0].tolist() == [True] + [False] * 9
    assert cells.anomalous[8, 5:9].all()
    assert cells.anomalous[7:10].sum() == 3 * 4  # rows 7 and 9 are covered by half


def test_cells_of_a_mask_of_another_shape():
    pixels = np.zeros((30, 70), bool)
    pixels[:, 35:] = True
    cells = cells_of(pixels, 7, 14)
    assert np.array_equal(cells.anomalous, np.arange(14)[None].repeat(7, 0) >= 7)
    assert np.array_equal(cells.good, np.arange(14)[None].repeat(7, 0) < 5)


def test_every_cell_of_a_good_image_is_good():
    cells = Cells.of(None, 3, 4)
    assert cells.good.shape == cells.anomalous.shape == (3, 4)
    assert cells.good.all()
    assert not cells.anomalous.any()


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[0, 3], [3, 0]]),
        np.array([[False, True], [True, False]]),
        torch.tensor([[0, 1], [1, 0]]),
        Image.fromarray(np.array([[0, 9], [9, 0]], np.uint8)),
    ],
)
def test_masks_in_memory(mask):
    assert np.asarray(to_mask(mask)).tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 2)), r"m has shape \[2, 2\] and dtype float64, expected \[H, W\] of bools"),
        (np.zeros((2, 2, 3), np.uint8), r"m has shape \[2, 2, 3\]"),
        (np.zeros((2, 2), bool), "m: no anomalous pixel in the mask"),
        (np.array([[0, 1], [2, 0]]), "m: the mask is not binary, 3 different values"),
    ],
)
def test_masks_in_memory_that_are_refused(mask, message):
    with pytest.raises(InputError, match=message):
        to_mask(mask, name="m")
