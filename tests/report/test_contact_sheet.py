from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import GOOD, Anomaly, Sample
from autopatch.errors import InputError
from autopatch.report import write_contact_sheet


def make(folder: Path, kind: str, number: int, size: tuple[int, int] = (200, 100)) -> Anomaly:
    """A gray image whose right half is anomalous."""
    mask = np.zeros(size[::-1], bool)
    mask[:, size[0] // 2 :] = True
    files = folder / f"{kind}{number}.png", folder / f"{kind}{number}_mask.png"
    Image.new("L", size, 128).save(files[0])
    Image.fromarray(mask).save(files[1])
    return Anomaly(Sample(files[0], kind, files[1]), Sample(folder / "source.png", GOOD))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        return np.asarray(sheet.convert("RGB"), np.int64)


def is_grey(pixels: np.ndarray) -> np.ndarray:
    return np.abs(pixels - 128).max(axis=2) < 10


def is_cyan(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 2] - pixels[..., 0] > 50


def test_each_anomaly_is_shown_as_it_is_and_with_an_outline(tmp_path: Path) -> None:
    path = write_contact_sheet([make(tmp_path, "dirt", 0)], tmp_path / "sheet.png")
    assert path == tmp_path / "sheet.png"
    pixels = pixels_of(path)
    columns = np.flatnonzero(is_grey(pixels).sum(axis=0) > 40)
    assert 316 <= len(columns) <= 322  # two pictures of 160 pixels
    (cyan,) = np.nonzero(is_cyan(pixels).any(axis=0))
    assert len(cyan)
    assert cyan.min() > columns[0] + 160 + 60  # in the right half of the second picture
    assert is_cyan(pixels).sum() >= 60


def test_a_row_for_each_kind_with_at_most_so_many_columns(tmp_path: Path) -> None:
    dirt = [make(tmp_path, "dirt", number) for number in range(3)]
    dent = [make(tmp_path, "dent", number) for number in range(2)]
    all_of_them = pixels_of(write_contact_sheet([*dirt, *dent], tmp_path / "a.png"))
    two = pixels_of(write_contact_sheet([*dirt, *dent], tmp_path / "b.png", columns=2))
    one_kind = pixels_of(write_contact_sheet(dirt, tmp_path / "c.png"))
    assert two.shape[0] == all_of_them.shape[0] > 1.8 * one_kind.shape[0]
    assert two.shape[1] < all_of_them.shape[1] == one_kind.shape[1]
    # The first row is that of the first kind.
    height = one_kind.shape[0] // 2
    assert np.abs(all_of_them[:height] - one_kind[:height]).max() < 40


def test_the_file_is_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    anomalies = []
    for kind in range(7):
        for number in range(5):
            anomaly = make(tmp_path, f"kind {kind}", number, (160, 160))
            noise = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
            noise.resize((160, 160), Image.Resampling.BICUBIC).save(anomaly.sample.image)
            anomalies.append(anomaly)
    path = write_contact_sheet(anomalies, tmp_path / "sheet.png")
    assert path.stat().st_size < 2_000_000


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`anomalies` is empty"):
        write_contact_sheet([], tmp_path / "sheet.png")
    anomaly = make(tmp_path, "dirt", 0)
    with pytest.raises(InputError, match="`columns` is 0"):
        write_contact_sheet([anomaly], tmp_path / "sheet.png", columns=0)
    anomaly.sample.image.unlink()
    with pytest.raises(InputError, match=r"dirt0\.png"):
        write_contact_sheet([anomaly], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
