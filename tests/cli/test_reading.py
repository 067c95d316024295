"""The options that set how files are read, and the messages about the files."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def data(textures, tmp_path):
    return shutil.copytree(textures, tmp_path / "data")


def each(folder, change):
    for path in sorted(folder.rglob("*.png")):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def test_check_data_prints_the_anomalous_area_of_each_type(autopatch, data):
    code, out, err = autopatch("check-data", data)
    assert code == 0, err
    assert "anomalous area" in out
    (row,) = [line for line in out.splitlines() if "test/hole" in line]
    assert "% (" in row
    assert "bit depth: 8" in out


def test_check_data_warns_of_inverted_masks(autopatch, data):
    each(data / "ground_truth" / "hole", lambda mask: 255 - mask)
    code, out, _ = autopatch("check-data", data)
    assert code == 0
    (warning,) = [line for line in out.splitlines() if "inverted" in line]
    assert warning.startswith("6 of 6 masks of the type 'hole' mark more than half of the image: ")


def test_check_data_of_grey_masks(autopatch, data):
    def soft(mask):
        values = (mask // 2).astype(np.uint8)
        values[0, :3] = (1, 2, 3)
        return values

    each(data / "ground_truth" / "hole", soft)
    code, out, err = autopatch("check-data", data)
    assert code == 2
    assert "mask_threshold" in out.replace("-", "_")
    code, out, err = autopatch("check-data", data, "--mask-threshold", "100")
    assert code == 0, err


def test_check_data_of_12_bits(autopatch, data):
    each(data / "train", lambda image: image[..., 0].astype(np.uint16) * 16)
    each(data / "test", lambda image: image[..., 0].astype(np.uint16) * 257)
    code, out, _ = autopatch("check-data", data)
    assert code == 0
    assert "bit depth: 12" in out
    (warning,) = [line for line in out.splitlines() if "brighter" in line]
    assert "clipped at 4095" in warning
    code, out, _ = autopatch("check-data", data, "--bit-depth", "16")
    assert code == 0
    assert "bit depth: 16" in out
    assert "brighter" not in out
    code, _, err = autopatch("check-data", data, "--bit-depth", "11")
    assert code == 2
    assert err.count("\n") == 1
    assert "11, expected one of 8, 10, 12, 14, 16" in err


def test_check_data_of_turned_images(autopatch, data):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (data / "test" / "hole").iterdir():
        Image.open(path).resize((80, 64)).save(path, exif=exif)
    each(data / "ground_truth" / "hole", lambda mask: np.pad(mask, ((0, 0), (0, 16))))
    code, out, _ = autopatch("check-data", data)
    assert code == 2
    assert "turned by its EXIF tag" in out
    code, _, err = autopatch("check-data", data, "--exif", "ignore")
    assert code == 0, err
