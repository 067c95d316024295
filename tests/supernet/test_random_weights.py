from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from autopatch.supernet import SeededWeights, load_supernet


def build() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 4))
    nn.init.trunc_normal_(network[1].weight)
    network.register_buffer("more", torch.randn(3) + torch.rand(3) + torch.randint(2, 5, (3,)))
    network.register_buffer("order", torch.randperm(9))
    return network


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_weights_are_those_of_the_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        expected = build()
    with SeededWeights(5):
        network = build()
    with SeededWeights(6):
        other = build()
    assert same(network, expected)
    assert not same(network, other)


@pytest.mark.parametrize("space", ["timm:mobilenetv2_050", "ofa_mbv3_d234_e346_k357_w1.0"])
def test_no_global_generator_is_used(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the generators of all devices are changed")

    before = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "manual_seed", fail)
        patch.setattr(torch.random, "fork_rng", fail)
        patch.setattr(torch, "set_rng_state", fail)
        first = load_supernet(space, "random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.weights_sha256 == load_supernet(space, "random", seed=3).weights_sha256


def test_networks_are_built_in_two_threads_at_once() -> None:
    with SeededWeights(1):
        expected = build()
    found: list[nn.Module] = []
    inside = threading.Barrier(2)

    def run() -> None:
        with SeededWeights(1):
            inside.wait(10)
            found.append(build())
            inside.wait(10)

    threads = [threading.Thread(target=run) for _ in range(2)]
    before = torch.get_rng_state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    assert [same(network, expected) for network in found] == [True, True]


def test_networks_without_memory_are_built_too() -> None:
    with torch.device("meta"), SeededWeights(1):
        assert all(value.is_meta for value in build().state_dict().values())


@pytest.mark.cuda
def test_the_generator_of_a_gpu_is_left_as_it_is() -> None:
    before = torch.cuda.get_rng_state()
    load_supernet("timm:mobilenetv2_050", "random", seed=3)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with torch.device("cuda"), SeededWeights(1):
        assert torch.randn(3).is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), before)
