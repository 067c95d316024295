"""What all steps on patch features have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from autopatch.data import draw_textures, load_images
from autopatch.detector import STEPS, Architecture, Detector, FeatureTransform, Head, Input
from autopatch.supernet import Supernet, load_supernet

CHANNELS = (24, 40)
VALUES = [
    ("normalization", "standardize"),
    ("normalization", "whiten"),
    ("level_weight", (1.0, 0.5)),
    ("projection", 16),
    ("distance", "cosine"),
]


def patches(seed: int) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(
        300, sum(CHANNELS), generator=generator, dtype=torch.float32, device="cpu"
    ).square()


def made(name: str, value: object) -> FeatureTransform:
    module = STEPS[name].features(value, sum(CHANNELS), CHANNELS)
    assert isinstance(module, FeatureTransform)
    return module


def fitted(name: str, value: object) -> FeatureTransform:
    module = made(name, value)
    module.fit(patches(0).split(70))
    return module


def test_every_step_has_an_off_value_and_valid_choices() -> None:
    assert list(STEPS) == ["normalization", "level_weight", "projection", "distance"]
    for name in STEPS:
        STEPS[name].check(STEPS[name].off)
        assert STEPS[name].choices[0] == STEPS[name].off
        for choice in STEPS[name].choices:
            STEPS[name].check(choice)


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_the_state_holds_everything_that_was_fitted(name: str, value: object) -> None:
    module, other = fitted(name, value), made(name, value)
    shapes = {key: tensor.shape for key, tensor in other.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in module.state_dict().items()}
    other.load_state_dict(module.state_dict())
    found = other(patches(1))
    assert found.shape == (300, module.out_features)
    assert found.dtype == torch.float32
    assert torch.equal(found, module(patches(1)))


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_fitted_in_inference_mode_and_changed_later(name: str, value: object) -> None:
    with torch.inference_mode():
        module = fitted(name, value)
    other = made(name, value)
    with torch.inference_mode():
        other.fit(patches(0).split(70))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(patches(1)), module(patches(1)))


@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("name", "value"), VALUES)
def test_settings_of_torch_change_no_result(name: str, value: object, setting: str) -> None:
    expected = fitted(name, value)(patches(1))
    with SETTINGS[setting]():
        found = fitted(name, value)(patches(1))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_exported(name: str, value: object) -> None:
    module = fitted(name, value).eval()
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(module, (patches(1)[:7],), dynamic_shapes=({0: rows},))
    torch.testing.assert_close(program.module()(patches(1)), module(patches(1)))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet("timm:mobilenetv2_050", "random")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = draw_textures(
        tmp_path_factory.mktemp("steps") / "data", image_size=64, train=8, test_good=1, per_type=1
    )
    return sorted((root / "train" / "good").iterdir())


def detector(supernet: Supernet, good: list[Path], steps: dict[str, object]) -> Detector:
    backbone = supernet.patchcore()
    assert backbone is not None
    architecture = Architecture(Input(64), backbone, Head((3, 1), None, steps))
    return Detector.fit(
        good[2:], supernet=supernet, architecture=architecture, calibration=good[:2]
    )


def test_steps_that_are_off_change_nothing(supernet: Supernet, good: list[Path]) -> None:
    off = {name: STEPS[name].off for name in STEPS}
    plain = detector(supernet, good, {})
    fitted = detector(supernet, good, {**off, "level_weight": (1.0, 1.0)})
    assert list(fitted.state_dict()) == list(plain.state_dict())
    assert torch.equal(fitted.memory.bank, plain.memory.bank)
    assert torch.equal(fitted.predict(good).anomaly_map, plain.predict(good).anomaly_map)


def test_a_detector_with_all_steps(supernet: Supernet, good: list[Path], tmp_path: Path) -> None:
    values = {
        "distance": "cosine",
        "projection": 40,
        "level_weight": (0.5, 1.0),
        "normalization": "whiten",
    }
    plain, fitted = detector(supernet, good, {}), detector(supernet, good, values)
    rows, channels = plain.memory.bank, [level.channels for level in plain.extractor.subnet.levels]
    for name in ("normalization", "level_weight", "projection", "distance"):
        module = STEPS[name].features(values[name], rows.shape[1], tuple(channels))
        assert isinstance(module, FeatureTransform)
        module.fit([rows])
        rows = module(rows)
    torch.testing.assert_close(fitted.memory.bank, rows, rtol=1e-4, atol=1e-5)

    fitted.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors")
    assert loaded.architecture == fitted.architecture
    expected = fitted.predict(good).anomaly_map
    assert torch.equal(loaded.predict(good).anomaly_map, expected)

    pixels = load_images(good, 64)
    count = torch.export.Dim("images", min=1, max=64)
    program = torch.export.export(loaded, (pixels[:3],), dynamic_shapes={"images": {0: count}})
    torch.testing.assert_close(program.module()(pixels)[0], expected, rtol=1e-4, atol=1e-6)
