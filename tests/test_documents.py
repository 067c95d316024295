"""The examples of README.md and docs/ run as they are printed, and their commands are valid."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from autopatch.cli.app import app
from autopatch.data import draw_textures

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "training" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)


def blocks(document: Path, language: str) -> list[str]:
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[Path, str]]:
    """Every line of a shell example that calls autopatch."""
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.partition("#")[0].strip()
                if command.startswith("autopatch "):
                    yield document, command


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that the examples name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    draw_textures("parts", image_size=64, train=10, test_good=2, per_type=5)
    shutil.copytree("parts/test/hole", "new")
    shutil.copytree("parts/test/hole", "new_photos")


@pytest.mark.parametrize(
    ("document", "command"), list(commands()), ids=lambda value: getattr(value, "name", value)
)
def test_commands_are_valid(document: Path, command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    assert name in group.commands, command  # type: ignore[attr-defined]
    group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_commands_of_the_readme_run(parts: None) -> None:
    lines = [command for document, command in commands() if document == DOCUMENTS[0]]
    assert lines.pop(0) == "autopatch demo"  # it has a test of its own
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "search":
            arguments += ["--evaluations", "2", "--image-sizes", "64", "--bank-sizes", "500"]
            arguments += ["--cost", "total_flops"]  # no latency to measure first
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (line, result.output)
    assert Path("run/report/report.html").is_file()
    assert len(Path("results/scores.csv").read_text().splitlines()) == 1 + 5


def test_python_of_the_readme(parts: None, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    exec(example, {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_python_of_the_docs(parts: None) -> None:
    pytest.importorskip("pandas")
    whole, alone, known, kernels = blocks(ROOT / "docs" / "python.md", "python")
    names: dict[str, Any] = {}
    choices = 'choices={"image_size": (64,), "bank_size": (500,)}'
    choices += ', objectives=("total_flops", "rwAP")'  # no latency to measure first
    exec(whole.replace("evaluations=100", f"evaluations=3, {choices}"), names)
    assert names["page"].is_file()
    assert Path("run/detector.safetensors").is_file()
    assert Path("run/evaluation.json").is_file()
    assert len(list(Path("results/overlays").iterdir())) == 5
    assert len(names["table"]) == 3
    assert names["table"]["is_pick"].sum() == 1
    assert {row.kind for row in names["results"].rows} == {"fitted", "patchcore", "front"}

    exec(alone, names)
    assert names["detector"].architecture == names["architecture"]
    for source, target in {
        "parts/test/scratch/000.png": "missed/1.png",
        "parts/ground_truth/scratch/000_mask.png": "missed/1_mask.png",
        "parts/test/good/000.png": "over_reported/7.png",
    }.items():
        Path(target).parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    exec(known, names)
    assert [image.name for image in names["detector"].known] == ["good/7.png"]
    exec(kernels, {})
