from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import (
    Cache,
    ImageReader,
    MVTecAD,
    Reading,
    Remarks,
    load_images,
    load_masks,
)
from autopatch.data import reading as reading_module
from autopatch.data.decoding import Decoded
from autopatch.errors import InputError

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
COLORS = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


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
    decode = reading_module.decode

    def record(source: Any, name: Any, exif: str = "apply") -> Decoded:
        names.append(Path(name).name)
        return decode(source, name, exif)

    monkeypatch.setattr(reading_module, "decode", record)
    return names


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "autopatch-images" in thread.name]


@pytest.mark.parametrize("batch_size", [1, 3, 11, 50])
@pytest.mark.parametrize("cache_bytes", [0, 3 * 16 * 16 * 4, 1 << 30])
def test_reader_gives_what_load_images_gives(
    files: list[Path], batch_size: int, cache_bytes: int
) -> None:
    reader = ImageReader(Cache(cache_bytes))
    images = [*files, COLORS, Image.fromarray(COLORS)]
    for _ in range(2):
        for size in (16, 12):
            batches = list(reader.batches(images, size, batch_size))
            assert all(len(batch) == batch_size for batch in batches[:-1])
            assert (torch.cat(batches) == load_images(images, size)).all()
    assert list(reader.batches([], 16, batch_size)) == []
    assert reader_threads() == []


def test_reader_keeps_files(files: list[Path], decoded: list[str]) -> None:
    reader = ImageReader(Cache(1 << 20))
    list(reader.batches(files, 16, 4))
    assert sorted(decoded) == sorted(path.name for path in files)
    list(reader.batches([str(path) for path in files], 16, 3))
    assert len(decoded) == len(files)
    list(reader.batches(files, 8, 4))
    assert len(decoded) == 2 * len(files) == reader.decoded


def test_reader_lets_the_least_recently_used_go(files: list[Path], decoded: list[str]) -> None:
    cache = Cache(3 * 16 * 16 * 3)  # three images
    reader = ImageReader(cache)

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
    assert cache.held == 3 * 16 * 16 * 3


def test_reader_keeps_nothing_that_it_gives_away(files: list[Path]) -> None:
    reader = ImageReader(Cache(1 << 20))
    for batch in reader.batches(files, 16, 4):
        batch.zero_()
    assert (torch.cat(list(reader.batches(files, 16, 4))) == load_images(files, 16)).all()


def test_reader_reads_a_changed_file_again(files: list[Path]) -> None:
    reader = ImageReader(Cache(1 << 20))
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
    cache = Cache(3 * 16 * 16 * 5)
    reader = ImageReader(cache)
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
    assert cache.held == sum(kept.nbytes for kept, _ in cache._kept.values()) == cache.budget


def test_reader_in_inference_mode(files: list[Path]) -> None:
    reader = ImageReader(Cache(1 << 20))
    with torch.inference_mode():
        first = torch.cat(list(reader.batches(files, 16, 4)))
        assert (load_images(files, 16) == first).all()
    assert (torch.cat(list(reader.batches(files, 16, 4))) == first).all()


def test_reader_mistakes() -> None:
    with pytest.raises(InputError, match="`batch_size` is 0"):
        ImageReader().batches([], 16, 0)
    with pytest.raises(InputError, match="`image_size` is 0"):
        ImageReader().batches([], 0, 1)


def test_load_images_of_nothing_and_mistakes(tmp_path: Path) -> None:
    assert load_images([], 8).shape == (0, 3, 8, 8)
    with pytest.raises(InputError, match="`image_size` is 0"):
        load_images([], 0)
    with pytest.raises(InputError, match=r"none.png: no such file"):
        load_images([tmp_path / "none.png"], 8)


def test_real_images(shared_data: Path) -> None:
    dataset = MVTecAD.scan(shared_data / "magnetic_tile")
    anomalous = [sample for sample in dataset.test if sample.mask][::10]
    images = load_images([sample.image for sample in anomalous], 64)
    assert images.float().std(dim=(1, 2, 3)).min() > 1
    assert load_masks(anomalous).flatten(1).any(1).all()


def test_one_image_or_many_are_read(files: list[Path]) -> None:
    expected = load_images(files[:1], 16)
    for one in (str(files[0]), files[0], iter(files[:1])):
        assert (load_images(one, 16) == expected).all()
    for one in (str(files[0]), np.asarray(Image.open(files[0]))):
        (batch,) = ImageReader().batches(one, 16, 4)
        assert (batch == expected).all()


def test_a_reader_reads_as_it_is_told() -> None:
    deep = np.full((16, 16), 1023, np.uint16)
    remarks = Remarks()
    (batch,) = ImageReader(reading=Reading(bit_depth=10), remarks=remarks).batches(deep, 16, 1)
    assert (batch == 255).all()
    assert remarks.lines() == ()
    (batch,) = ImageReader(reading=Reading(bit_depth=8), remarks=remarks).batches(deep, 16, 1)
    assert "images[0]" in remarks.lines()[0]
    assert (load_images(deep, 16) == 4).all()
