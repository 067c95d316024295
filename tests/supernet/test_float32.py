from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autopatch.supernet import Level, Subnet
from autopatch.supernet.float32 import in_float32

GPU = torch.device("cuda")
NEW = hasattr(torch.backends.cudnn, "conv")  # the settings of torch 2.9


@pytest.fixture(params=["default", "old settings", *(["new settings"] if NEW else [])])
def allowed(request: pytest.FixtureRequest) -> Iterator[str]:
    """TF32 is allowed in convolutions and, except with the default settings, in matrix products."""
    before = torch.get_float32_matmul_precision()
    if request.param == "old settings":
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")
    elif request.param == "new settings":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield request.param
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision(before)


def settings() -> list[object]:
    """All settings that control TF32."""
    if NEW:
        return [
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
        ]
    return [torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]


def is_off() -> bool:
    return all(value in ("ieee", "none", "highest", False) for value in settings())


def test_settings_are_changed_within_and_as_before_after(allowed: str) -> None:
    before = settings()
    assert not is_off()
    with in_float32(GPU):
        assert is_off()
        with in_float32(GPU):
            assert is_off()
        assert is_off()
    assert settings() == before
    with pytest.raises(KeyError), in_float32(GPU):
        raise KeyError
    assert settings() == before
    with in_float32(torch.device("cpu")):
        assert settings() == before


def test_the_last_thread_to_leave_restores_the_settings(allowed: str) -> None:
    before = settings()
    entered, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with in_float32(GPU):
            entered.set()
            may_leave.wait(10)

    thread = threading.Thread(target=other)
    with in_float32(GPU):
        thread.start()
        entered.wait(10)
    assert is_off()
    may_leave.set()
    thread.join()
    assert settings() == before


class Watched(nn.Module):
    """Records whether TF32 is off while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.off: list[bool] = []

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.off.append(is_off())
        return [self.convolution(images)]


def subnet_of(network: nn.Module) -> Subnet:
    return Subnet(
        network,
        {"network": "watched"},
        [Level(0, 1, 4)],
        mean=(0, 0, 0),
        std=(1, 1, 1),
        provenance="",
    )


@pytest.mark.parametrize("name", ["cuda", "cpu"])
def test_a_backbone_runs_in_float32(allowed: str, name: str) -> None:
    before = settings()
    with FakeTensorMode(), torch.device(name):  # a GPU that need not be there
        network = Watched()
        subnet_of(network)(torch.empty(2, 3, 8, 8))
    assert network.off == [name == "cuda"]
    assert settings() == before


def test_autocast_of_the_caller_does_not_change_a_backbone() -> None:
    subnet = subnet_of(Watched())
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (expected,) = subnet(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = subnet(images)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.cuda
def test_a_backbone_on_a_gpu_computes_as_on_a_cpu(allowed: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = Watched()
    network.convolution = nn.Conv2d(3, 4, 3)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    subnet = subnet_of(network)
    (expected,) = subnet(images)
    (found,) = subnet.cuda()(images.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
