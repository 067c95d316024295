from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import (
    Reading,
    Remarks,
    as_images,
    decide,
    read_image,
    to_pil,
)
from autopatch.errors import InputError

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
COLORS = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)


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


@pytest.mark.parametrize("pixels", [GREY, COLORS])
def test_arrays_and_tensors_are_what_they_are_in_a_file(tmp_path: Path, pixels: np.ndarray) -> None:
    expected = np.asarray(read_image(saved(tmp_path, Image.fromarray(pixels))))
    deep = pixels.astype(np.uint16) * 257
    last = pixels if pixels.ndim == 3 else pixels[..., None]
    for kind in (
        pixels,
        last,
        deep,
        deep.astype(">u2"),
        pixels / 255,
        (pixels / 255).astype(np.float32),
        np.flipud(np.flipud(pixels)),
        Image.fromarray(pixels),
    ):
        image = to_pil(kind)
        assert image.mode == "RGB"
        assert (np.asarray(image) == expected).all()
    tensor = torch.from_numpy(last).permute(2, 0, 1)
    for same in (
        tensor,
        tensor.float() / 255,
        tensor.double() / 255,
        (tensor.float() / 255).requires_grad_(),
        torch.from_numpy(deep if deep.ndim == 3 else deep[..., None]).permute(2, 0, 1),
    ):
        assert (np.asarray(to_pil(same)) == expected).all()
    # Eight bits of precision tell most values apart, none by more than one.
    half = np.asarray(to_pil((tensor.float() / 255).to(torch.bfloat16))).astype(int)
    assert abs(half - expected).max() <= 1


@pytest.mark.cuda
def test_tensors_on_a_gpu() -> None:
    tensor = torch.from_numpy(COLORS).permute(2, 0, 1).cuda()
    assert (np.asarray(to_pil(tensor)) == COLORS).all()


def test_16_bit_arrays_are_scaled_as_files(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = pixels(saved(tmp_path, Image.fromarray(values)))
    assert (np.asarray(to_pil(values)) == expected).all()
    assert (np.asarray(to_pil(Image.fromarray(values))) == expected).all()
    assert (np.asarray(to_pil(torch.from_numpy(values)[None])) == expected).all()


def test_alpha_of_arrays_is_dropped() -> None:
    with_alpha = np.dstack([COLORS, GREY])
    assert (np.asarray(to_pil(with_alpha)) == COLORS).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_pil_images_are_treated_as_decoded_files(tmp_path: Path, mode: str) -> None:
    if mode in ("I;16", "I"):
        values = GREY.astype(np.int32 if mode == "I" else np.uint16) * 200
        image = Image.fromarray(values)
    else:
        image = Image.fromarray(COLORS).convert(mode)
    assert image.mode == mode
    path = saved(tmp_path, image, "image.tif" if mode in ("CMYK", "I") else "image.png")
    assert (np.asarray(to_pil(image)) == pixels(path)).all()
    with Image.open(path) as opened:  # not decoded yet
        assert (np.asarray(to_pil(opened)) == pixels(path)).all()


def test_exif_orientation_of_a_pil_image_which_stays_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(GREY), exif=exif)
    with Image.open(path) as image:
        image.load()
        assert (np.asarray(to_pil(image)) == pixels(path)).all()
        assert image.size == (10, 6)
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, r"image: int, expected a file, a PIL image"),
        (None, r"image: NoneType, expected"),
        (GREY.astype(np.int64), r"an array int64 \[6, 10\], expected uint8, uint16 or floats"),
        (GREY > 3, r"an array bool \[6, 10\], expected uint8"),
        (COLORS.transpose(2, 0, 1), r"an array uint8 \[3, 6, 10\], expected \[H, W\]"),
        (GREY[None, None, None], r"an array uint8 \[1, 1, 1, 6, 10\], expected"),
        (np.zeros((0, 4), np.uint8), r"an array uint8 \[0, 4\], expected"),
        (GREY / 100, r"of values 0 to 2.36, expected 0 to 1"),
        (GREY / -255.0, r"of values -0.92\d* to -?0, expected 0 to 1"),
        (np.full((2, 2), np.nan), r"of values nan to nan, expected 0 to 1"),
        (torch.zeros(4, 4), r"a tensor float32 \[4, 4\], expected \[C, H, W\]"),
        (torch.zeros(4, 4, 4), r"a tensor float32 \[4, 4, 4\], expected \[C, H, W\] of 1 or 3"),
        (torch.zeros(4, 4, 3), r"a tensor float32 \[4, 4, 3\], expected \[C, H, W\] of 1 or 3"),
        (torch.zeros(3, 4, 4).long(), r"a tensor int64 \[3, 4, 4\], expected uint8"),
        (torch.full((1, 2, 2), 255.0), r"a tensor float32 \[1, 2, 2\] of values 255 to 255"),
        (Image.new("F", (2, 2)), r"image: floating point values, expected 8-bit"),
        (Image.new("HSV", (2, 2)), r"image: mode HSV, expected 8-bit"),
        (Image.fromarray(np.array([[70000]], np.int32)), r"image: values 70000 to 70000, expected"),
        (Image.new("RGB", (0, 2)), r"image: 0 x 2 pixels, expected at least 1 x 1"),
    ],
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        to_pil(image)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_opened_by_pil(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLORS))
    path.write_bytes(path.read_bytes()[:-60])
    with Image.open(path) as image, pytest.raises(InputError, match="image: unreadable or trunc"):
        to_pil(image)


def test_one_image_or_many(tmp_path: Path) -> None:
    pil = Image.fromarray(GREY)
    tensor = torch.from_numpy(COLORS).permute(2, 0, 1)
    for one in ("a.png", Path("a.png"), pil, GREY, COLORS, tensor):
        (image,) = as_images(one)
        assert image is one
    assert as_images(()) == []
    assert as_images(name for name in "ab") == ["a", "b"]
    assert as_images(np.array(["a.png", "b.png"])) == ["a.png", "b.png"]
    mixed = ["a.png", pil, GREY]
    assert all(map(lambda a, b: a is b, as_images(tuple(mixed)), mixed))
    arrays = as_images(np.stack([COLORS, COLORS]))
    assert [image.shape for image in arrays] == [COLORS.shape] * 2
    assert [image.shape for image in as_images(torch.stack([tensor] * 3))] == [tensor.shape] * 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, "`images` is int, expected a file"),
        (["a.png", 3], r"images\[1\]: int, expected a file"),
        (b"a.png", r"images\[0\]: int"),
        (torch.zeros(2, 2), r"`images` is a tensor \[2, 2\], expected"),
        (torch.zeros(1, 1, 3, 2, 2), r"`images` is a tensor \[1, 1, 3, 2, 2\], expected"),
        (np.array(3), r"`images` is an array int64 \[\], expected"),
    ],
)
def test_neither_one_image_nor_many(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_images(images)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 4, 4, device="meta"), r"float32 \[3, 4, 4\], without values"),
        (torch.zeros(3, 4, 4).to_sparse(), r"float32 \[3, 4, 4\], sparse_coo"),
    ],
)
def test_tensors_that_are_not_dense(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=rf"image: a tensor {message}, expected a dense tensor"):
        to_pil(tensor)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_values_of_a_bit_depth(tmp_path: Path, bits: int) -> None:
    reading, highest = Reading(bit_depth=bits), 2**bits - 1
    values = np.array([np.linspace(0, highest, 30)]).astype(np.uint16)
    expected = np.floor(values / highest * 255 + 0.5)[..., None]
    path = saved(tmp_path, Image.fromarray(values))
    for kind in (path, Image.fromarray(values), values, torch.from_numpy(values)[None]):
        assert (np.asarray(to_pil(kind, reading=reading)) == expected).all()
    brighter = np.array([[highest, min(highest + 1, 65535), 65535]], np.uint16)
    assert (np.asarray(to_pil(brighter, reading=reading)) == 255).all()


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_images_of_8_bits_are_the_same_at_every_bit_depth(tmp_path: Path, bits: int) -> None:
    path, reading = saved(tmp_path, Image.fromarray(COLORS)), Reading(bit_depth=bits)
    for kind in (path, COLORS, COLORS / 255):
        assert (np.asarray(to_pil(kind, reading=reading)) == COLORS).all()


def test_a_faint_defect_in_10_bits_is_seen() -> None:
    part = np.full((8, 8), 500, np.uint16)
    part[2:4, 2:4] += 12
    found = np.asarray(to_pil(part, reading=Reading(bit_depth=10)))
    assert found[2, 2, 0] - found[0, 0, 0] == 3
    assert len(np.unique(np.asarray(to_pil(part)))) == 1  # it vanishes at 16 bits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bit_depth": 9}, "`bit_depth` is 9, expected one of 8, 10, 12, 14, 16"),
        ({"bit_depth": "12"}, "`bit_depth` is '12', expected one of 8, 10, 12, 14, 16"),
        ({"mask_threshold": "12"}, "`mask_threshold` is '12', expected 0 to 65534"),
        ({"exif": "undo"}, "`exif` is 'undo', expected apply or ignore"),
        ({"mask_threshold": -1}, "`mask_threshold` is -1, expected 0 to 65534"),
        ({"mask_threshold": 65535}, "`mask_threshold` is 65535"),
        ({"mask_resize": "all"}, "`mask_resize` is 'all', expected area or any"),
    ],
)
def test_mistakes_in_a_reading(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reading(**fields)


def test_a_reading_in_json() -> None:
    reading = Reading(bit_depth=12, exif="ignore", mask_threshold=7, mask_resize="any")
    assert Reading.from_json(reading.to_json()) == reading


def test_the_bit_depth_of_images_of_any_kind(
    tmp_path: Path, png_of_16_bits: Callable[[Path, np.ndarray], Path]
) -> None:
    grey = np.arange(40, dtype=np.uint16).reshape(4, 10) * 20  # up to 780
    color = png_of_16_bits(tmp_path / "color.png", np.dstack([grey * 3] * 3))
    file = saved(tmp_path, Image.fromarray(grey), "grey.png")
    colors = saved(tmp_path, Image.fromarray(COLORS), "8.png")
    for eight_bits in ([colors, COLORS, COLORS / 255], colors, str(colors)):
        assert decide(Reading(), eight_bits) == (Reading(bit_depth=8), ())
    for same in (file, Image.fromarray(grey), grey, torch.from_numpy(grey)[None], Image.open(file)):
        assert decide(Reading(), [colors, same]) == (Reading(bit_depth=10), ())
    assert decide(Reading(), [file, color])[0] == Reading(bit_depth=12)
    assert decide(Reading(), []) == (Reading(bit_depth=8), ())


@pytest.mark.parametrize("kind", ["deep", "8 bits", "float"])
def test_few_gray_levels_are_told_whether_or_not_the_bit_depth_is_given(kind: str) -> None:
    values = {
        "deep": GREY.astype(np.uint16) // 100 * 100,
        "8 bits": GREY // 100 * 100,
        "float": GREY // 100 * 100 / 255,
    }[kind]
    for reading in (Reading(), Reading(bit_depth=8)):
        found, (warning,) = decide(reading, [values] * 20)
        assert found.bit_depth == 8
        assert "use 3 gray levels" in warning
    assert decide(Reading(), [*[values] * 20, GREY]) == (Reading(bit_depth=8), ())
    if kind == "deep":
        found, (warning,) = decide(Reading(bit_depth=16), values)
        assert found.bit_depth == 16
        assert warning.endswith("; give `bit_depth` 8")


def test_few_images_are_decoded_to_count_gray_levels(tmp_path: Path) -> None:
    files = [saved(tmp_path, Image.fromarray(COLORS))] * 20 + [tmp_path / "absent.png"]
    assert decide(Reading(bit_depth=16), files) == (Reading(bit_depth=16), ())


def test_remarks(tmp_path: Path) -> None:
    remarks, reading = Remarks(), Reading(bit_depth=10)
    bright = np.full((2, 2), 1500, np.uint16)
    with_alpha = np.dstack([COLORS, GREY])
    file = saved(tmp_path, Image.fromarray(with_alpha))
    for index, image in enumerate((bright, COLORS, with_alpha)):
        to_pil(image, name=f"images[{index}]", reading=reading, remarks=remarks)
    for _ in range(2):
        to_pil(file, reading=reading, remarks=remarks)
    opaque = np.dstack([COLORS, np.full_like(GREY, 9)])
    to_pil(opaque, name="opaque", reading=reading, remarks=remarks)
    assert remarks.lines() == (
        "1 image is brighter than the bit depth allows (values up to 1500 are clipped at 1023): "
        "images[0]; fit again with `bit_depth` 12",
        f"the alpha channel of 2 images is dropped: {file}, images[2]; blend with a background "
        "first if it matters",
    )
    assert Remarks().lines() == ()
