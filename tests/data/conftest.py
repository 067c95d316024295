from __future__ import annotations

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
                Image.new("RGB", size, (index, number, 200)).save(root / folder / name)
        return root

    return make


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real images are not here: {folder}")
    return folder
