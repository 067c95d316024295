from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

from autopatch.supernet.batch_norm import fold_batch_norm, fold_found

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_statistics(module: nn.Module) -> nn.Module:
    """The module in eval mode, its batch norms far from the identity."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight, part.running_var):
                value.data.uniform_(0.5, 1.5, generator=generator)
            for value in (part.bias, part.running_mean):
                value.data.normal_(generator=generator)
    return module.eval().requires_grad_(False)


def folded_of(module: nn.Module, image: torch.Tensor) -> nn.Module:
    folded, pairs = fold_found(module, image)
    again = fold_batch_norm(module, pairs)
    for found, expected in zip(again(image), folded(image), strict=True):
        assert torch.equal(found, expected)
    return folded


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mobilenetv2_100", 0),
        ("tf_mobilenetv3_small_075", 0),  # pads as TensorFlow does
        ("resnet18", 0),
        ("resnetv2_18", 8),  # the first batch norm of a block has no convolution before it
    ],
)
def test_timm_models_keep_their_maps(name: str, left: int) -> None:
    # In double precision: how far float32 rounds depends on the weights drawn.
    model = with_statistics(timm.create_model(name, features_only=True)).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = folded_of(model, IMAGES[:1].double())
    assert batch_norms(model) > batch_norms(folded) == left
    for image_size in (64, 96):
        images = torch.nn.functional.interpolate(IMAGES.double(), image_size)
        for found, expected in zip(folded(images), model(images), strict=True):
            scale = float(expected.abs().max())
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


class Chain(nn.Module):
    """A convolution and its batch norm that cannot be folded."""

    def __init__(self, *, read_twice: bool = False, called_twice: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.batch_norm = nn.BatchNorm2d(3)
        self.read_twice = read_twice
        self.called_twice = called_twice

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        if self.called_twice:
            images = self.batch_norm(self.convolution(images))
        maps = self.convolution(images)
        return [self.batch_norm(maps) + (maps if self.read_twice else 0)]


class Scaled(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


class OneMap(nn.Sequential):
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [super().forward(images)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Chain(called_twice=True),
        lambda: OneMap(Scaled(3, 4, 1), nn.BatchNorm2d(4)),
        lambda: OneMap(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: OneMap(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
    ],
)
def test_other_batch_norms_stay(make: Callable[[], nn.Module]) -> None:
    module = with_statistics(make())
    folded = folded_of(module, IMAGES[:1])
    assert batch_norms(folded) == 1
    torch.testing.assert_close(folded(IMAGES), module(IMAGES), rtol=1e-5, atol=1e-5)


def test_an_output_that_is_taken_twice_is_kept_with_a_warning() -> None:
    module = with_statistics(Chain(read_twice=True))
    with pytest.warns(UserWarning, match="Chain keeps its batch norm"):
        kept, pairs = fold_found(module, IMAGES[:1])
    assert pairs == []
    assert batch_norms(kept) == 1
    assert torch.equal(kept(IMAGES)[0], module(IMAGES)[0])


def test_without_batch_norm_nothing_is_done() -> None:
    module = OneMap(nn.Conv2d(3, 3, 1))
    assert fold_found(module, IMAGES[:1]) == (module, [])


def test_other_threads_run_modules_meanwhile() -> None:
    module = with_statistics(timm.create_model("mobilenetv2_050", features_only=True))
    expected = module(IMAGES)
    done = threading.Event()

    def run() -> int:
        runs = 0
        while not done.is_set() or runs == 0:
            for found, like in zip(module(IMAGES), expected, strict=True):
                torch.testing.assert_close(found, like)
            runs += 1
        return runs

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            for _ in range(5):
                assert len(fold_found(module, IMAGES[:1])[1]) == batch_norms(module)
        finally:
            done.set()
        assert running.result() > 0


@pytest.mark.parametrize("pair", [("0", "2"), ("1", "0"), ("0", "x"), ("x", "1")])
def test_pairs_of_another_module_are_refused(pair: tuple[str, str]) -> None:
    module = with_statistics(OneMap(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    with pytest.raises(ValueError, match=f"{pair[0]} and {pair[1]} are not a convolution"):
        fold_batch_norm(module, [pair])
