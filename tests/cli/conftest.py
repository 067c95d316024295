import sys

import pytest

from autopatch.cli import main
from autopatch.data import draw_textures

SPACE = "timm:tf_mobilenetv3_small_075"


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    root = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(root, seed=1, image_size=64, train=16, test_good=4, per_type=6)


@pytest.fixture
def autopatch(monkeypatch, capsys):
    """Runs a command in this process; gives exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["autopatch", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        captured = capsys.readouterr()
        return (0 if code is None else code), captured.out, captured.err

    return run


@pytest.fixture
def search_arguments(textures, tmp_path):
    return [
        "search",
        textures,
        *("--space", SPACE, "--weights", "random", "--shots", "1", "--reserve", "2"),
        *("--evaluations", "8", "--population", "4"),
        *("--image-sizes", "64,96", "--patch-sizes", "1,3", "--bank-sizes", "50,100"),
        *("--out", tmp_path / "run"),
    ]
