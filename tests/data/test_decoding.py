from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import Reading, read_image, to_pil
from autopatch.data.decoding import decode, is_deep
from autopatch.errors import InputError

WritePng = Callable[[Path, np.ndarray], Path]
WriteTiff = Callable[..., Path]
DEEP = np.random.default_rng(2).integers(0, 65536, (9, 14, 3), np.uint16)
TWELVE = Reading(bit_depth=12)


def test_png_of_16_bits_in_color_is_read_whole(tmp_path: Path, png_of_16_bits: WritePng) -> None:
    path = png_of_16_bits(tmp_path / "image.png", DEEP)
    decoded = decode(path, path)
    assert np.array_equal(decoded.pixels, DEEP)  # type: ignore[arg-type]
    assert decoded.alpha is None
    with_alpha = np.dstack([DEEP, DEEP[..., 0]])
    decoded = decode(png_of_16_bits(path, with_alpha), path)
    assert (decoded.pixels == DEEP).all()
    assert (decoded.alpha == DEEP[..., 0]).all()
    decoded = decode(png_of_16_bits(path, DEEP[..., :2]), path)
    assert (decoded.pixels == DEEP[..., :1]).all()
    assert (decoded.alpha == DEEP[..., 1]).all()
    decoded = decode(png_of_16_bits(path, DEEP[..., :1]), path)
    assert (decoded.pixels == DEEP[..., :1]).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_of_16_bits_in_color_is_read_whole(
    tmp_path: Path, tiff_of_16_bits: WriteTiff, order: str, deflate: bool
) -> None:
    path = tiff_of_16_bits(tmp_path / "image.tif", DEEP, order=order, deflate=deflate)
    assert (decode(path, path).pixels == DEEP).all()
    with_alpha = np.dstack([DEEP, DEEP[..., 0]])
    decoded = decode(tiff_of_16_bits(path, with_alpha, order=order, deflate=deflate), path)
    assert (decoded.pixels == DEEP).all()
    assert decoded.alpha is not None
    assert (decoded.alpha == DEEP[..., 0]).all()


@pytest.mark.parametrize("deflate", [False, True])
def test_a_layout_that_cannot_be_read_whole_is_refused(
    tmp_path: Path, tiff_of_16_bits: WriteTiff, deflate: bool
) -> None:
    path = tiff_of_16_bits(tmp_path / "image.tif", DEEP, deflate=deflate, planar=2)
    with pytest.raises(InputError, match=r"image.tif: 16 bits per channel in a layout that cannot"):
        read_image(path)


def test_jpeg_2000_of_more_than_8_bits_in_color_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.jp2"
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(path)
    assert decode(path, path).rgb().size == (14, 9)
    data = bytearray(path.read_bytes())
    marker = data.index(b"\xff\x4f\xff\x51")
    assert data[marker + 40 : marker + 43] == b"\0\3\7"  # 3 channels of 8 bits
    data[marker + 42] = 15
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"image.jp2: 16 bits per channel in a layout that cannot"):
        decode(path, path)
    Image.fromarray(DEEP[..., 0]).save(path)
    assert (decode(path, path).pixels == DEEP[..., :1]).all()


@pytest.mark.parametrize("highest", [65535, 4095])
def test_ppm_of_16_bits_is_read_whole(tmp_path: Path, highest: int) -> None:
    path = tmp_path / "image.ppm"
    values = np.minimum(DEEP, highest)
    values[0, 0] = highest
    header = f"P6 {DEEP.shape[1]} {DEEP.shape[0]} {highest}\n".encode()
    path.write_bytes(header + values.astype(">u2").tobytes())
    expected = np.rint(values / highest * 65535)
    assert (decode(path, path).pixels == expected).all()
    path.write_bytes(header + values.astype(">u2").tobytes()[:-9])
    with pytest.raises(InputError, match=r"image.ppm: unreadable or truncated"):
        read_image(path)
    path.write_bytes(b"P3 1 1 4095\n0 1 2\n")
    with pytest.raises(InputError, match=r"image.ppm: 16-bit values written as text"):
        read_image(path)


def test_an_opened_image_of_16_bits_in_color(tmp_path: Path, png_of_16_bits: WritePng) -> None:
    path = png_of_16_bits(tmp_path / "image.png", DEEP % 4096)
    expected = np.asarray(read_image(path, TWELVE))
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert (np.asarray(to_pil(image, reading=TWELVE)) == expected).all()
        assert (np.asarray(image) == (DEEP % 4096) >> 8).all()  # it can still be loaded


def test_a_damaged_file_of_16_bits_in_color(tmp_path: Path, png_of_16_bits: WritePng) -> None:
    path = png_of_16_bits(tmp_path / "image.png", DEEP)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"image.png: unreadable or truncated"):
        read_image(path)


def test_which_files_have_more_than_8_bits(
    tmp_path: Path, png_of_16_bits: WritePng, tiff_of_16_bits: WriteTiff
) -> None:
    grey = tmp_path / "grey.png"
    Image.fromarray(DEEP[..., 0]).save(grey)
    assert is_deep(grey)
    assert is_deep(png_of_16_bits(tmp_path / "color.png", DEEP))
    assert is_deep(tiff_of_16_bits(tmp_path / "color.tif", DEEP, planar=2))
    for name in ("image.png", "image.tif", "image.ppm", "image.jpg"):
        Image.fromarray((DEEP >> 8).astype(np.uint8)).save(tmp_path / name)
        assert not is_deep(tmp_path / name)
    assert not is_deep(tmp_path / "absent.png")


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_is_applied_or_ignored(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    colors = Image.fromarray((DEEP >> 8).astype(np.uint8))
    colors.save(path)
    with Image.open(path) as image:
        stored = np.asarray(image)
    colors.save(path, exif=exif)
    ignored = decode(path, path, "ignore")
    assert (np.asarray(ignored.rgb()) == stored).all()
    applied = decode(path, path)
    assert (np.asarray(applied.rgb()) == TURNS[orientation](stored)).all()
    assert ignored.orientation == applied.orientation == orientation
    with Image.open(path) as image:
        assert (np.asarray(to_pil(image, reading=Reading(exif="ignore"))) == stored).all()


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("deflate", [False, True])
def test_exif_of_16_bits_in_color(
    tmp_path: Path, tiff_of_16_bits: WriteTiff, deflate: bool, orientation: int
) -> None:
    path = tiff_of_16_bits(tmp_path / "a.tif", DEEP, deflate=deflate, orientation=orientation)
    assert (decode(path, path).pixels == TURNS[orientation](DEEP)).all()
    ignored = decode(path, path, "ignore")
    assert (ignored.pixels == DEEP).all()
    assert ignored.orientation == orientation


def test_a_large_photograph_is_read_and_nothing_global_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (200, 110), 7).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).size == (200, 110)
    assert Image.MAX_IMAGE_PIXELS == 10_000


def test_an_image_of_more_than_a_billion_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pgm"
    path.write_bytes(b"P5 40000 40000 255\n")
    with pytest.raises(InputError, match=r"huge.pgm: 40000 x 40000 pixels, expected at most 1,073"):
        read_image(path)
