import pytest

SPACE = "timm:test_efficientnet"


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
