"""A small search, run once. Tests get copies of its folder with its data and weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from autopatch.data import draw_textures
from autopatch.runs import Run, TestResults, run_search
from autopatch.supernet import load_supernet

NAME = "timm:test_efficientnet"
SETTINGS = {
    "space": NAME,
    "shots": 1,
    "reserve": 2,
    "seed": 4,
    "evaluations": 4,
    "objectives": ("total_flops", "rwAP"),
    "population": 4,
    "choices": {"image_size": (64, 224), "patch_size": (1, 3), "bank_size": (40, 80)},
}


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "data", "weights.safetensors" and "run", a search with these."""
    folder = tmp_path_factory.mktemp("runs")
    data = draw_textures(folder / "data", seed=8, image_size=64, train=14, test_good=3, per_type=4)
    supernet = load_supernet(NAME, "random")
    network = supernet.get_active_subnet(supernet.largest()).network
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    settings = {"timm_model": NAME.removeprefix("timm:"), "timm_kwargs": "{}"}
    weights = folder / "weights.safetensors"
    save_file(state, weights, metadata=settings | {"mean": "[0.5,0.5,0.5]", "std": "[0.5,0.5,0.5]"})
    run_search(data, folder / "run", weights=weights, **SETTINGS)
    return folder


@pytest.fixture(scope="session")
def detector_file(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pick of the search, fitted."""
    file = tmp_path_factory.mktemp("detectors") / "detector.safetensors"
    Run.open(origin / "run").fit(out=file)
    return file


@pytest.fixture(scope="session")
def measured(
    origin: Path, detector_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> TestResults:
    """The results of `evaluate` for that detector."""
    folder = shutil.copytree(origin, tmp_path_factory.mktemp("measured") / "origin")
    return Run.open(folder / "run").evaluate(detector_file)


@pytest.fixture
def moved(origin: Path, tmp_path: Path) -> Path:
    """A copy of `origin` for a single test."""
    return shutil.copytree(origin, tmp_path / "elsewhere" / "moved")


@pytest.fixture
def finished(moved: Path) -> Run:
    """The search in `moved`."""
    return Run.open(moved / "run")


@pytest.fixture
def settings(moved: Path) -> dict[str, Any]:
    """Arguments of `run_search` that repeat the search in `moved / "run"`."""
    return {**SETTINGS, "data": moved / "data", "weights": moved / "weights.safetensors"}
