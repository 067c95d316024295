import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

SPACE = "timm:test_efficientnet"


@pytest.fixture
def search_arguments(textures, tmp_path):
    return [
        "search",
        textures,
        *("--space", SPACE, "--weights", "random", "--shots", "1", "--reserve", "2"),
        *("--evaluations", "8", "--population", "4", "--cost", "total_flops"),
        *("--image-sizes", "64,96", "--patch-sizes", "1,3", "--bank-sizes", "50,100"),
        *("--out", tmp_path / "run"),
    ]


@dataclass
class Searched:
    """A run folder, and the output of the search."""

    run: Path
    out: str


@pytest.fixture(scope="session")
def searches(tmp_path_factory):
    """The search of `search_arguments`, run when a test first needs it."""
    return tmp_path_factory.mktemp("searched"), []


@pytest.fixture
def searched(autopatch, search_arguments, searches, tmp_path):
    """A copy, at `tmp_path / "run"`, of the search of `search_arguments`, which runs once for all
    tests. It refers to its images by a relative path, which is valid for the copy too."""
    folder, made = searches
    if not made:
        code, out, err = autopatch(*search_arguments[:-1], folder / "run")
        assert code == 0, err
        made.append(out)
    return Searched(shutil.copytree(folder / "run", tmp_path / "run"), made[0])
