from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeDataset = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a small data set of images that all differ; names are lists of file names, counts give
    `000.png`, ..."""

    def names(count: int | list[str]) -> list[str]:
        return [f"{index:03d}.png" for index in range(count)] if isinstance(count, int) else count

    def make(
        *,
        train: int | list[str] = 20,
        test_good: int | list[str] | None = 5,
        anomalies: Mapping[str, int | list[str]] | None = None,
        size: tuple[int, int] = (12, 8),
    ) -> Path:
        root = tmp_path / "dataset"
        folders = {"train/good": names(train)}
        if test_good is not None:
            folders["test/good"] = names(test_good)
        for kind, count in ({"crack": 7, "dent": 6} if anomalies is None else anomalies).items():
            folders[f"test/{kind}"] = names(count)
            truth = root / "ground_truth" / kind
            truth.mkdir(parents=True)
            mask = np.zeros(size[::-1], np.uint8)
            mask[2:5, 3:7] = 255
            for name in names(count):
                Image.fromarray(mask).save(truth / f"{Path(name).stem}_mask.png")
        for number, (folder, files) in enumerate(folders.items()):
            (root / folder).mkdir(parents=True)
            for index, name in enumerate(files):
                image = np.empty((size[1], size[0], 3), np.uint8)
                image[:] = (index, number, 200)
                image[..., 2].flat[:50] = np.arange(150, 200)
                Image.fromarray(image).save(root / folder / name)
        return root

    return make


@pytest.fixture
def png_of_16_bits() -> Callable[[Path, np.ndarray], Path]:
    """Writes values `[H, W, C]`, C from 1 to 4, as a PNG of 16 bits a channel, which Pillow cannot
    write in color."""

    def write(path: Path, values: np.ndarray) -> Path:
        height, width, channels = values.shape
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        content = b"\x89PNG\r\n\x1a\n"
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ):
            content += struct.pack(">I", len(data)) + name + data
            content += struct.pack(">I", zlib.crc32(name + data))
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def tiff_of_16_bits() -> Callable[..., Path]:
    """Writes values `[H, W, C]`, C of 3 or 4, as a TIFF of 16 bits a channel."""

    def write(
        path: Path,
        values: np.ndarray,
        *,
        order: str = "<",
        deflate: bool = False,
        planar: int = 1,
        orientation: int = 1,
    ) -> Path:
        height, width, channels = values.shape
        data = values.astype(f"{order}u2").tobytes()
        if deflate:
            data = zlib.compress(data)
        bits = struct.pack(f"{order}{channels}H", *[16] * channels)
        tags = [  # number, type (3 of two bytes, 4 of four), count, value
            (256, 3, 1, width),
            (257, 3, 1, height),
            (258, 3, channels, 8 + len(data)),
            (259, 3, 1, 8 if deflate else 1),
            (262, 3, 1, 2),
            (273, 4, 1, 8),
            (274, 3, 1, orientation),
            (277, 3, 1, channels),
            (278, 3, 1, height),
            (279, 4, 1, len(data)),
            (284, 3, 1, planar),
        ]
        content = b"II*\0" if order == "<" else b"MM\0*"
        content += struct.pack(f"{order}I", 8 + len(data) + len(bits)) + data + bits
        content += struct.pack(f"{order}H", len(tags))
        for number, kind, count, value in tags:
            content += struct.pack(f"{order}HHI", number, kind, count)
            short = kind == 3 and count == 1
            content += struct.pack(f"{order}H2x" if short else f"{order}I", value)
        path.write_bytes(content + bytes(4))
        return path

    return write


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real images are not here: {folder}")
    return folder
