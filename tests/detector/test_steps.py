"""Optional steps of the head: off values, features and maps, files, and their genes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from autopatch.data import draw_textures, load_images
from autopatch.detector import (
    STEPS,
    Architecture,
    Detector,
    FeatureTransform,
    Head,
    Input,
    ScoreTransform,
    Step,
)
from autopatch.errors import InputError
from autopatch.supernet import Supernet, load_supernet


class _Standardize(FeatureTransform):
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, patches: Iterable[torch.Tensor]) -> None:
        rows = torch.cat(list(patches))
        self.mean, self.deviation = rows.mean(0), rows.std(0)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return (patches - self.mean) / self.deviation


class Standardization(Step):
    order, off, choices = 20, False, (False,)

    def check(self, value):
        if not isinstance(value, bool):
            raise InputError(f"standardization is {value!r}, expected true or false")

    def describe(self, value):
        return "standardized"

    def features(self, value, features, channels):
        return _Standardize(features)


class _Weigh(FeatureTransform):
    weights: torch.Tensor

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.out_features = len(weights)
        self.register_buffer("weights", weights)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return patches * self.weights


class LevelFactor(Step):
    order, off, choices, per_level = 10, 1, (1,), True

    def check(self, value):
        if value not in (1, 2):
            raise InputError(f"level factor is {value!r}, expected 1 or 2")

    def describe(self, value):
        return f"levels weighted {' '.join(map(str, value))}"

    def features(self, value, features, channels):
        weights = [float(w) for w, count in zip(value, channels, strict=True) for _ in range(count)]
        return _Weigh(torch.tensor(weights))


class _Relative(ScoreTransform):
    norm: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm", torch.ones(()))

    def fit(self, patches: Iterable[torch.Tensor]) -> None:
        self.norm = torch.cat(list(patches)).square().sum(1).mean()

    def forward(self, patches: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        return distances / (self.norm + patches.square().sum(1))


class RelativeDistance(Step):
    order, off, choices = 30, False, (False,)

    def check(self, value):
        if not isinstance(value, bool):
            raise InputError(f"relative distance is {value!r}, expected true or false")

    def describe(self, value):
        return "relative distances"

    def scores(self, value, features):
        return _Relative()


@pytest.fixture
def steps() -> Iterator[None]:
    added = {
        "standardization": Standardization(),
        "relative_distance": RelativeDistance(),
        "level_factor": LevelFactor(),
    }
    for name, step in added.items():
        STEPS.register(name, step)
    yield
    for name in added:
        STEPS.unregister(name)


def test_steps_run_in_their_order_however_they_are_registered(steps: None) -> None:
    ours = ["level_factor", "standardization", "relative_distance"]
    assert [name for name in STEPS if name in ours] == ours
    with pytest.raises(InputError, match=r"order 20 is that of 'standardization'"):
        STEPS.register("another", Standardization())

    class WithoutOrder(Standardization):
        order = None

    with pytest.raises(InputError, match="order is None, expected an integer"):
        STEPS.register("another", WithoutOrder())
    assert "another" not in STEPS


def test_a_step_on_distances(
    steps: None, supernet: Supernet, good: list[Path], tmp_path: Path
) -> None:
    backbone = supernet.patchcore()
    assert backbone is not None
    heads = [Head((1, 1), 40), Head((1, 1), 40, {"relative_distance": True})]
    plain, fitted = (
        Detector.fit(
            good[2:],
            supernet=supernet,
            architecture=Architecture(Input(64), backbone, head),
            calibration=good[:2],
        )
        for head in heads
    )
    assert torch.equal(plain.memory.bank, fitted.memory.bank)
    pixels = load_images(good, 64)
    patches = plain.extractor(pixels)
    good_patches = plain.extractor(pixels[2:]).flatten(0, 2)
    norms = patches.square().sum(-1)
    scores = plain.memory(patches.flatten(0, 2)).reshape(norms.shape)
    scores = scores / (good_patches.square().sum(1).mean() + norms)
    expected = torch.nn.functional.interpolate(scores[:, None], size=(224, 224), mode="bilinear")
    found = fitted.predict(good).anomaly_map
    assert torch.allclose(found, expected[:, 0], rtol=1e-5, atol=1e-7)

    fitted.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors")
    assert torch.equal(loaded.predict(good).anomaly_map, found)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet("timm:mobilenetv2_050", "random")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = draw_textures(
        tmp_path_factory.mktemp("steps") / "data", image_size=64, train=8, test_good=1, per_type=1
    )
    return sorted((root / "train" / "good").iterdir())


def test_steps_that_are_off_are_not_mentioned(steps: None) -> None:
    plain = Head((3, 3), 50)
    off = Head((3, 3), 50, {"standardization": False, "level_factor": (1, 1)})
    assert plain == off
    assert hash(plain) == hash(off)
    on = Head((3, 3), 50, {"standardization": True, "level_factor": (1, 2)})
    assert on.describe(["a", "b"]) == "a p3 + b p3, bank 50, levels weighted 1 2, standardized"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"standardization": 1}, "standardization is 1"),
        ({"level_factor": 2}, "level_factor is 2, expected 2 values"),
        ({"level_factor": (2,)}, "expected 2 values"),
        ({"level_factor": (1, 3)}, "level factor is 3"),
        ({"standardization": (True, True)}, "expected one value"),
        ({"sharpness": 3}, "step of the head is 'sharpness'"),
    ],
)
def test_values_that_a_step_cannot_have(steps: None, values: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Head((3, 3), 50, values)


def test_steps_on_features(
    steps: None, supernet: Supernet, good: list[Path], tmp_path: Path
) -> None:
    backbone = supernet.patchcore()
    heads = [
        Head((1, 1), None),
        Head((1, 1), None, {"level_factor": (1, 2), "standardization": True}),
    ]
    plain, fitted = (
        Detector.fit(
            good[2:],
            supernet=supernet,
            architecture=Architecture(Input(64), backbone, head),
            calibration=good[:2],
        )
        for head in heads
    )
    channels = [level.channels for level in supernet.levels(backbone)]
    weighted = plain.memory.bank.clone()
    weighted[:, channels[0] :] *= 2
    expected = (weighted - weighted.mean(0)) / weighted.std(0)
    assert torch.equal(fitted.memory.bank, expected)

    fitted.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors")
    assert loaded.architecture == fitted.architecture
    assert torch.equal(loaded.predict(good).anomaly_map, fitted.predict(good).anomaly_map)
    assert not torch.equal(plain.predict(good).anomaly_map, fitted.predict(good).anomaly_map)
