from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from autopatch.data import Reading, load_images, read_image, to_pil
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


def sgi_of_16_bits(path: Path, values: np.ndarray, packed: bool) -> Path:
    """Writes values `[H, W, C]`, C 1 or 3, as an SGI file, packed in runs or not."""
    height, width, channels = values.shape
    planes = values[::-1].transpose(2, 0, 1).astype(">u2")
    dimensions = 2 if channels == 1 else 3
    header = struct.pack(">hBBHHHHll", 474, packed, 2, dimensions, width, height, channels, 0, 9)
    header = header.ljust(512, b"\0")
    if not packed:
        path.write_bytes(header + planes.tobytes())
        return path
    rows = [
        struct.pack(">H", 0x80 | width) + row.tobytes() + b"\0\0"
        for row in planes.reshape(-1, width)
    ]
    starts = 512 + 8 * len(rows) + np.arange(len(rows)) * len(rows[0])
    lengths = np.full(len(rows), len(rows[0]))
    tables = np.concatenate([starts, lengths]).astype(">u4").tobytes()
    path.write_bytes(header + tables + b"".join(rows))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_sgi_of_16_bits_is_refused_unless_it_is_read_whole(tmp_path: Path, packed: bool) -> None:
    path = sgi_of_16_bits(tmp_path / "image.sgi", DEEP[..., :1], packed)
    assert is_deep(path)
    with pytest.raises(InputError, match=r"image.sgi: 16 bits per channel in a layout that cannot"):
        decode(path, path)
    path = sgi_of_16_bits(path, DEEP, packed)
    assert is_deep(path)
    if packed:
        assert (decode(path, path).pixels == DEEP).all()
        return
    with pytest.raises(InputError, match=r"image.sgi: 16 bits per channel in a layout that cannot"):
        decode(path, path)


@pytest.mark.parametrize("name", ["pages.tif", "image.avif", "image.jp2"])
@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
def test_half_a_file_of_any_format_is_refused(tmp_path: Path, name: str) -> None:
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow has no avif")
    path = tmp_path / name
    image = Image.fromarray((DEEP >> 8).astype(np.uint8))
    pages = {"save_all": True, "append_images": [image] * 2} if name == "pages.tif" else {}
    image.save(path, **pages)  # type: ignore[arg-type]
    whole = path.read_bytes()
    for share in (0.3, 0.6):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert not is_deep(path)
        with pytest.raises(InputError, match=f"{name}: (unreadable or truncated|not an) image"):
            decode(path, path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Invalid 'ftyp' box"), r"image.png: unreadable or truncated image \("),
        (KeyError(3), r"image.png: unreadable or truncated image \("),
        (MemoryError(), "image.png: needs more memory than there is, or its header is damaged$"),
    ],
)
def test_whatever_pillow_raises_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    path = tmp_path / "image.png"
    Image.new("L", (3, 2)).save(path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(InputError, match=message):
        decode(path, path)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", fail)
    assert not is_deep(path)


def test_the_system_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        decode(tmp_path, tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_pil_image_whose_file_is_closed(tmp_path: Path, png_of_16_bits: WritePng) -> None:
    deep = png_of_16_bits(tmp_path / "deep.png", DEEP)
    path = tmp_path / "image.png"
    Image.fromarray(DEEP[..., 0]).save(path)
    for file in (deep, path):
        with Image.open(file) as left:
            pass
        with Image.open(file) as loaded:
            loaded.load()
        assert decode(loaded, "image").size == (14, 9)
        loaded.close()
        with file.open("rb") as opened:
            by_caller = Image.open(opened)
        for image in (left, loaded, by_caller):
            is_deep(image)
            with pytest.raises(InputError) as caught:
                decode(image, "images[3]")
            assert str(caught.value) == (
                "images[3]: its file is closed, expected an image that is loaded or still open"
            )


@pytest.mark.parametrize("name", ["deep.png", "image.png", "image.tif"])
def test_one_opened_image_given_many_times(
    tmp_path: Path, png_of_16_bits: WritePng, name: str
) -> None:
    values = np.random.default_rng(3).integers(0, 65536, (300, 300, 3), np.uint16)
    path = tmp_path / name
    if name == "deep.png":
        png_of_16_bits(path, values)
    else:
        exif = Image.Exif()
        exif[0x0112] = 3
        options = {"compression": "tiff_lzw"} if name.endswith("tif") else {}
        colors = Image.fromarray((values >> 8).astype(np.uint8))
        colors.save(path, exif=exif, **options)  # type: ignore[arg-type]
    expected = load_images(path, 32)
    for _ in range(3):
        with Image.open(path) as image:
            assert (load_images([image] * 16, 32) == expected).all()


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


def exif_block(*entries: bytes) -> bytes:
    header = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return header + b"".join(entries) + bytes(4)


def entry(tag: int, kind: int, value: bytes) -> bytes:
    """An entry of an EXIF block; kinds: 1 byte, 2 ASCII, 3 short, 7 undefined."""
    count = len(value) // 2 if kind == 3 else len(value)
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


X_RESOLUTION, SOFTWARE, UNIT, WIDTH, EXIF_PART = 0x11A, 0x131, 0x128, 0x100, 0x8769


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (X_RESOLUTION, 2, b"72\0"),
        (SOFTWARE, 3, b"\1\0"),
        (UNIT, 2, b"2\0"),
        (WIDTH, 2, b"14\0"),
        (EXIF_PART, 2, b"abc\0"),
    ],
)
def test_tags_of_an_odd_type_do_not_hinder(
    tmp_path: Path, tag: int, kind: int, value: bytes
) -> None:
    path, colors = tmp_path / "image.png", (DEEP >> 8).astype(np.uint8)
    turned = entry(0x0112, 3, b"\6\0")
    block = exif_block(*sorted([turned, entry(tag, kind, value)], key=lambda e: e[1::-1]))
    Image.fromarray(colors).save(path, exif=block)
    decoded = decode(path, path)
    assert decoded.orientation == 6
    assert (np.asarray(decoded.rgb()) == TURNS[6](colors)).all()


@pytest.mark.parametrize(("kind", "value"), [(1, b"\6"), (2, b"6\0"), (7, b"\6"), (3, b"\0\0")])
def test_an_orientation_that_is_no_number_from_1_to_8_counts_as_1(
    tmp_path: Path, kind: int, value: bytes
) -> None:
    colors = (DEEP >> 8).astype(np.uint8)
    for path in (tmp_path / "image.png", tmp_path / "image.webp"):
        options = {"exif": exif_block(entry(0x0112, kind, value)), "lossless": True}
        Image.fromarray(colors).save(path, **options)  # type: ignore[arg-type]
        decoded = decode(path, path)
        assert decoded.orientation == 1
        assert (np.asarray(decoded.rgb()) == colors).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_turned_image_is_not_turned_again(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"image.{suffix}"
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(path, exif=exif)
    once = read_image(path)
    assert once.size == (9, 14)
    assert (np.asarray(to_pil(once)) == np.asarray(once)).all()


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
