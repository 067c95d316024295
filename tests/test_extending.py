"""docs/extending.md: its examples run in order, and add one of each kind by public names alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autopatch import Detector
from autopatch.data import draw_textures
from autopatch.detector import STEPS
from autopatch.detector.known import ROWS_PER_IMAGE
from autopatch.search import OBJECTIVES
from autopatch.supernet import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def examples() -> list[str]:
    """The Python code blocks of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def registries() -> Iterator[None]:
    """Removes what a test adds from the registries."""
    known = {id(registry): set(registry) for registry in (STEPS, FAMILIES, OBJECTIVES)}
    yield
    for registry in (STEPS, FAMILIES, OBJECTIVES):
        for name in set(registry) - known[id(registry)]:
            registry.unregister(name)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder of good images, defects and masks in no known layout."""
    drawn = draw_textures(tmp_path / "drawn", image_size=64, train=14, test_good=4, per_type=6)
    root = tmp_path / "parts"
    for source, target in (
        ("train/good", "good"),
        ("test/hole", "defects"),
        ("ground_truth/hole", "masks"),
    ):
        shutil.copytree(drawn / source, root / target)
    for mask in (root / "masks").iterdir():
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    return root


@pytest.mark.usefixtures("registries")
def test_the_examples(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts.parent)
    names: dict[str, Any] = {}
    for block in examples():
        exec(compile(block, str(PAGE), "exec"), names)

    run, detector = names["run"], names["detector"]
    assert len([trial for trial in run.trials if trial.evaluation]) == 20
    for trial in run.trials:
        features = 8 * len(trial.architecture.backbone.levels)
        rows = trial.evaluation.values["bank_bytes"] / 4 / features
        known = ROWS_PER_IMAGE * len(run.split.validation)
        assert 0 < rows <= trial.architecture.head.bank_size + known
    assert "memory of the bank" in names["page"].read_text(encoding="utf-8")
    assert names["results"].rows[0].values.keys() == {"bank_bytes", "total_flops", "rwAP"}

    images = sorted((parts / "defects").iterdir())
    loaded = Detector.load(names["Path"]("run/detector.safetensors"))
    assert torch.equal(loaded.predict(images).anomaly_map, detector.predict(images).anomaly_map)


@pytest.mark.usefixtures("registries")
def test_a_step_changes_maps_and_nothing_when_off(parts: Path) -> None:
    exec(compile(examples()[0], str(PAGE), "exec"), {})
    good = sorted((parts / "good").iterdir())
    plain = Detector.fit(good)
    architecture = plain.architecture
    json = architecture.to_json()
    off = type(architecture).from_json(
        {**json, "head": {**json["head"], "steps": {"box_filter": 1}}}
    )
    assert off == architecture
    smooth = type(architecture).from_json(
        {**json, "head": {**json["head"], "steps": {"box_filter": 5}}}
    )
    smoothed = Detector.fit(good, architecture=smooth)
    expected = torch.nn.functional.avg_pool2d(plain.predict(good).anomaly_map, 5, 1, 2)
    assert torch.equal(smoothed.predict(good).anomaly_map, expected)
    assert len(examples()) == 6
