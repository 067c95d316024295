"""The README's Python examples run as they are printed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from autopatch.data import draw_textures

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def examples() -> list[str]:
    section = README.read_text(encoding="utf-8").partition("## Python\n")[2]
    return re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)


def test_the_whole_job(
    examples: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    draw_textures("parts", image_size=64, train=16, test_good=4, per_type=6)
    shutil.copytree("parts/test/hole", "new_photos")
    whole, alone, kernels = examples
    names: dict[str, Any] = {}
    exec(whole.replace("evaluations=60", "evaluations=3"), names)
    assert names["page"].is_file()
    assert Path("run/detector.safetensors").is_file()
    assert Path("run/evaluation.json").is_file()
    assert len(list(Path("results/overlays").iterdir())) == 6
    assert len(names["table"]) == 3
    assert names["table"]["is_pick"].sum() == 1
    assert {row.kind for row in names["results"].rows} == {"fitted", "patchcore", "front"}

    exec(alone, names)
    assert names["detector"].architecture == names["architecture"]
    exec(kernels, {})
