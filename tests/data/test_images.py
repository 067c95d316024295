from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import (
    ImageReader,
    MVTecAD,
    Sample,
    as_images,
    load_images,
    load_masks,
    read_image,
    read_mask,
    to_pil,
)
from autopatch.data import images as images_module
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


COLORS = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)


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
        (3, "images: int, expected a file"),
        (["a.png", 3], r"images\[1\]: int, expected a file"),
        (b"a.png", r"images\[0\]: int"),
        (torch.zeros(2, 2), r"images: a tensor \[2, 2\], expected"),
        (torch.zeros(1, 1, 3, 2, 2), r"images: a tensor \[1, 1, 3, 2, 2\], expected"),
    ],
)
def test_neither_one_image_nor_many(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_images(images)


def test_load_images_of_any_kind(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLORS))
    tensor = torch.from_numpy(COLORS).permute(2, 0, 1)
    loaded = load_images([path, str(path), Image.fromarray(COLORS), COLORS, tensor], 16)
    assert (loaded == loaded[:1]).all()
    square = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    assert (load_images([square], 9)[0] == square).all()
    with pytest.raises(InputError, match=r"images\[1\]: NoneType"):
        load_images([path, None], 16)  # type: ignore[list-item]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        saved(tmp_path, Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)), f"{i}.png")
        for i in range(11)
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded."""
    names: list[str] = []
    decode = images_module._decode

    def record(source: Any, name: Any) -> Image.Image:
        names.append(Path(name).name)
        return decode(source, name)

    monkeypatch.setattr(images_module, "_decode", record)
    return names


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "autopatch-images" in thread.name]


@pytest.mark.parametrize("batch_size", [1, 3, 11, 50])
@pytest.mark.parametrize("cache_bytes", [0, 3 * 16 * 16 * 4, 1 << 30])
def test_reader_gives_what_load_images_gives(
    files: list[Path], batch_size: int, cache_bytes: int
) -> None:
    reader = ImageReader(cache_bytes)
    images = [*files, COLORS, Image.fromarray(COLORS)]
    for _ in range(2):
        for size in (16, 12):
            batches = list(reader.batches(images, size, batch_size))
            assert all(len(batch) == batch_size for batch in batches[:-1])
            assert (torch.cat(batches) == load_images(images, size)).all()
    assert list(reader.batches([], 16, batch_size)) == []
    assert reader_threads() == []


def test_reader_keeps_files(files: list[Path], decoded: list[str]) -> None:
    reader = ImageReader()
    list(reader.batches(files, 16, 4))
    assert sorted(decoded) == sorted(path.name for path in files)
    list(reader.batches([str(path) for path in files], 16, 3))
    assert len(decoded) == len(files)
    list(reader.batches(files, 8, 4))
    assert len(decoded) == 2 * len(files)


def test_reader_lets_the_least_recently_used_go(files: list[Path], decoded: list[str]) -> None:
    reader = ImageReader(3 * 16 * 16 * 3)  # three images

    def read(*indices: int) -> list[str]:
        decoded.clear()
        for index in indices:
            list(reader.batches([files[index]], 16, 1))
        return decoded

    assert read(0, 1, 2, 0, 1, 2) == ["0.png", "1.png", "2.png"]
    assert read(0, 3) == ["3.png"]  # 1 is the oldest, and goes
    assert read(0, 2, 3) == []
    assert read(1) == ["1.png"]
    assert read(0) == ["0.png"]
    assert reader._kept_bytes == 3 * 16 * 16 * 3
    assert len(reader._kept) == 3


def test_reader_keeps_nothing_that_it_gives_away(files: list[Path]) -> None:
    reader = ImageReader()
    for batch in reader.batches(files, 16, 4):
        batch.zero_()
    assert (torch.cat(list(reader.batches(files, 16, 4))) == load_images(files, 16)).all()


def test_reader_reads_a_changed_file_again(files: list[Path]) -> None:
    reader = ImageReader()
    list(reader.batches(files[:1], 16, 1))
    Image.new("RGB", (40, 40), (1, 2, 3)).save(files[0])
    (batch,) = reader.batches(files[:1], 16, 1)
    assert (batch == load_images(files[:1], 16)).all()
    files[0].unlink()
    with pytest.raises(InputError, match=r"0.png: no such file"):
        list(reader.batches(files[:1], 16, 1))


def test_reader_reads_two_batches_ahead_and_no_more(files: list[Path], decoded: list[str]) -> None:
    batches = ImageReader().batches(files, 16, 2)
    assert decoded == []
    next(batches)
    deadline = time.monotonic() + 10
    while len(decoded) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(decoded) == [f"{index}.png" for index in range(6)]
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert reader_threads() == []
    assert len(decoded) <= 8


def test_reader_gives_the_first_failure(files: list[Path]) -> None:
    for index in (9, 4, 5):
        files[index].write_bytes(b"")
    batches = ImageReader().batches(files, 16, 2)
    assert [len(next(batches)) for _ in range(2)] == [2, 2]
    with pytest.raises(InputError, match=r"4.png: not an image"):
        next(batches)
    assert reader_threads() == []


def test_reader_in_several_threads(files: list[Path]) -> None:
    reader = ImageReader(3 * 16 * 16 * 5)
    expected = load_images(files, 16)
    equal: list[bool] = []

    def read() -> None:
        for size in (1, 2, 3, 4):
            equal.append(bool((torch.cat(list(reader.batches(files, 16, size))) == expected).all()))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 16
    assert reader._kept_bytes == sum(kept.nbytes for _, kept in reader._kept.values())
    assert reader._kept_bytes <= 3 * 16 * 16 * 5


def test_reader_in_inference_mode(files: list[Path]) -> None:
    reader = ImageReader()
    with torch.inference_mode():
        first = torch.cat(list(reader.batches(files, 16, 4)))
        assert (load_images(files, 16) == first).all()
    assert (torch.cat(list(reader.batches(files, 16, 4))) == first).all()


def test_reader_mistakes() -> None:
    with pytest.raises(InputError, match="cache_bytes: -1"):
        ImageReader(-1)
    with pytest.raises(InputError, match="batch_size: 0"):
        ImageReader().batches([], 16, 0)
    with pytest.raises(InputError, match="image_size: 0"):
        ImageReader().batches([], 0, 1)


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
    images = load_images([sample.image for sample in anomalous], 64)
    assert images.float().std(dim=(1, 2, 3)).min() > 1
    assert load_masks(anomalous).flatten(1).any(1).all()
