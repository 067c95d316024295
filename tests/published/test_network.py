"""The elastic network against values of the published code.

`published_maps.npz` holds the mean of every channel of the maps of `SETTINGS`, with the seeded
weights (fixture `seeded_tensor`) and images; `kernel_transform.npz` effective depthwise filters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from autopatch.errors import InputError
from autopatch.published.network import (
    LARGEST,
    OnceForAllMobileNetV3,
    OnceForAllSetting,
    StaticNetwork,
    block_level,
    transform_kernels,
)

Array = npt.NDArray[Any]

HERE = Path(__file__).parent
WEIGHT_SEEDS = {1.0: 3101, 1.2: 3102}
# Of the lists [name, shape, dtype] in order of names, and of the generated states.
KEYS_SHA256 = {
    1.0: "351b5b60088491b08e77a80c61170ba86dff3a9f8c80433750880854706ebac0",
    1.2: "ee0c1c6ed797d50ee56ee4ad4a16cdca63a45f9965075da9c04a9139c00db983",
}
STATE_SHA256 = {
    1.0: "9bb88ce91300565e6b7eeb5b4516177e8a2c2179845667c2015226e480183308",
    1.2: "5597bd811238a8bf54f56b4ccd32f0d6b919190ef4ccbc02c9f71f40a8db452a",
}


def setting_of(
    kernels: str, ratios: str, depths: str, levels: tuple[int, ...]
) -> OnceForAllSetting:
    return OnceForAllSetting(*(tuple(map(int, text)) for text in (kernels, ratios, depths)), levels)


# Width, kernel sizes, expand ratios, depths, levels, shape of the images. Three of them have
# another choice for each block.
TABLE = """
1.0 77777777777733337777 33336666333344443333 22222 1,5,9,13,17 2,3,64,64
1.2 77777777777777775555 66666666666644443333 44444 4,8,12,16,20 2,3,64,64
1.0 55555555777777773333 66663333333366663333 22232 6,15 1,3,64,64
1.2 55553333333355555555 66663333666644444444 22322 2,11 2,3,64,96
1.0 55733737535755733735 66433344644343366366 44444 4,8,12,16,20 1,3,64,64
1.2 37755377537753777753 66666443663346366466 33223 3,7,10,14,19 2,3,64,64
1.0 33333333777777777777 33334444666666664444 22422 12,13,18 1,3,224,224
1.2 55733357337753777535 44643444344633444343 24242 8,16 1,3,75,101
"""


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


# Width, setting, seed and shape of the images.
SETTINGS = [
    (float(width), setting_of(*choices, numbers(levels)), 31000 + i, numbers(shape))
    for i, (width, *choices, levels, shape) in enumerate(map(str.split, TABLE.split("\n")[1:-1]))
]
# Blocks 1 and 2 are of the sizes 5 and 3, block 3 is left out.
SMALL = replace(
    LARGEST,
    kernel_sizes=(5, 3, *LARGEST.kernel_sizes[2:]),
    expand_ratios=(3, 4, *LARGEST.expand_ratios[2:]),
    depths=(2, 2, 2, 2, 2),
    levels=(2,),
)


def images_of(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def random_settings(count: int) -> list[OnceForAllSetting]:
    rng = np.random.default_rng(7)
    settings = []
    for _ in range(count):
        depths = rng.choice((2, 3, 4), 5)
        stages = [stage for stage in range(5) if rng.random() < 0.6] or [2]
        settings.append(
            OnceForAllSetting(
                tuple(rng.choice((3, 5, 7), 20).tolist()),
                tuple(rng.choice((3, 4, 6), 20).tolist()),
                tuple(depths.tolist()),
                tuple(4 * stage + int(rng.integers(1, depths[stage] + 1)) for stage in stages),
            )
        )
    return settings


def state_copy(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


@pytest.fixture(scope="module")
def generated_network(
    seeded_tensor: Callable[[str, tuple[int, ...], int], torch.Tensor],
) -> Callable[[float], OnceForAllMobileNetV3]:
    """Makes networks of the generated weights."""

    def make(width: float) -> OnceForAllMobileNetV3:
        network = OnceForAllMobileNetV3(width)
        state = {
            key: seeded_tensor(key, tuple(value.shape), WEIGHT_SEEDS[width])
            for key, value in network.state_dict().items()
        }
        network.load_state_dict(state)
        return network.eval()

    return make


@pytest.fixture(scope="module")
def networks(
    generated_network: Callable[[float], OnceForAllMobileNetV3],
) -> dict[float, OnceForAllMobileNetV3]:
    """Networks with the generated weights, for tests that do not modify them."""
    return {width: generated_network(width) for width in WEIGHT_SEEDS}


@pytest.fixture(scope="module")
def maps(networks: dict[float, OnceForAllMobileNetV3]) -> list[list[Array]]:
    """Feature maps of `SETTINGS`."""
    with torch.inference_mode():
        return [
            [m.double().numpy() for m in networks[width](images_of(seed, shape), setting)]
            for width, setting, seed, shape in SETTINGS
        ]


@pytest.fixture(scope="module")
def published() -> Path:
    folder = HERE.parents[2] / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"no published values at {folder}")
    return folder


@pytest.mark.parametrize("width", WEIGHT_SEEDS)
def test_the_state_has_the_published_names_shapes_and_dtypes(
    networks: dict[float, OnceForAllMobileNetV3], width: float
) -> None:
    state = networks[width].state_dict()
    found = sorted(
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in state.items()
    )
    assert len(found) == 475
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest() == KEYS_SHA256[width]


@pytest.mark.parametrize("width", WEIGHT_SEEDS)
def test_the_list_of_names(
    published: Path, networks: dict[float, OnceForAllMobileNetV3], width: float
) -> None:
    wanted = json.loads((published / "ofa_state_dict.json").read_text())[str(width)]
    found = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in networks[width].state_dict().items()
    }
    assert found == wanted["keys"]
    norms = [m for m in networks[width].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(wanted["bn"]["momentum"], wanted["bn"]["eps"])}
    for stage, blocks in enumerate(wanted["block_group_info"]):
        for block in blocks:
            assert block_level(block, width).channels == wanted["stage_out_channels"][stage]


@pytest.mark.parametrize("width", WEIGHT_SEEDS)
def test_a_state_is_loaded_and_given_back(
    networks: dict[float, OnceForAllMobileNetV3], width: float
) -> None:
    state = networks[width].state_dict()
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].numpy().tobytes())
    assert digest.hexdigest() == STATE_SHA256[width]

    given = dict(state)
    again = OnceForAllMobileNetV3(width)
    again.load_state_dict(given)
    assert_same(again.state_dict(), state)
    assert_same(given, state)  # the caller's own dict keeps its names
    inside = torch.nn.ModuleDict({"net": again})
    assert {f"net.{key}" for key in state} == inside.state_dict().keys()


@pytest.mark.parametrize(
    "key", ["blocks.7.conv.depth_conv.conv.5to3_matrix", "first_conv.bn.running_var"]
)
def test_a_state_must_be_whole(networks: dict[float, OnceForAllMobileNetV3], key: str) -> None:
    state = dict(networks[1.0].state_dict())
    network = OnceForAllMobileNetV3(1.0)
    with pytest.raises(RuntimeError, match="Unexpected"):
        network.load_state_dict({**state, f"{key}.more": state[key]})
    del state[key]
    with pytest.raises(RuntimeError, match="Missing"):
        network.load_state_dict(state)


@pytest.mark.parametrize("i", range(len(SETTINGS)))
def test_channel_means_are_the_published_ones(maps: list[list[Array]], i: int) -> None:
    levels = SETTINGS[i][1].levels
    with np.load(HERE / "published_maps.npz") as file:
        for level, found in zip(levels, maps[i], strict=True):
            wanted = file[f"s{i}_b{level}"]
            assert found.shape[1] == len(wanted)
            # The maps deviate by 0.28 to 1.43.
            np.testing.assert_allclose(found.mean((0, 2, 3)), wanted, rtol=0, atol=2.5e-5)


@pytest.mark.parametrize("i", range(len(SETTINGS)))
def test_maps_are_the_published_ones(published: Path, maps: list[list[Array]], i: int) -> None:
    recorded = json.loads((published / "ofa_forward.json").read_text())
    wanted = recorded["settings"][i]
    width, setting, seed, shape = SETTINGS[i]
    assert (str(width), seed, list(shape), list(setting.kernel_sizes)) == (
        wanted["width"],
        wanted["input_seed"],
        wanted["input_shape"],
        wanted["ks"],
    )
    assert (list(setting.expand_ratios), list(setting.depths), list(setting.levels)) == (
        wanted["e"],
        wanted["d"],
        wanted["extract_blocks"],
    )
    assert STATE_SHA256[width] == recorded["weights"][str(width)]["sha256"]
    with np.load(published / "ofa_forward.npz") as file:
        for layer, found in zip(wanted["layers"], maps[i], strict=True):
            assert list(found.shape) == layer["shape"]
            name, tolerance = f"s{i}_b{layer['block']}", 1e-4 * layer["std"]
            values = found.ravel()[file[f"{name}_idx"]]
            np.testing.assert_allclose(values, file[f"{name}_val"], rtol=0, atol=tolerance)
            means = found.mean((0, 2, 3))
            np.testing.assert_allclose(means, file[f"{name}_chmean"], rtol=0, atol=tolerance)
            for what in ("mean", "std", "min", "max"):
                assert getattr(found, what)() == pytest.approx(layer[what], abs=tolerance)


def test_small_kernels_are_the_published_ones() -> None:
    with np.load(HERE / "kernel_transform.npz") as file:
        values = {name: torch.from_numpy(file[name]) for name in file.files}
    matrices = [values["m7to5"], values["m5to3"]]
    for count, name in enumerate(("filter7", "filter5", "filter3")):
        found = transform_kernels(values["w7"], matrices[:count])
        torch.testing.assert_close(found, values[name], rtol=0, atol=1e-5)


def test_kernels_of_a_fresh_network_are_the_middle_of_the_large_ones() -> None:
    network = OnceForAllMobileNetV3(1.0)
    subnet = network.get_active_subnet(SMALL)
    for block, size, channels in (("1", 5, 48), ("2", 3, 96)):
        large = network.get_parameter(f"blocks.{block}.conv_dw.weight")
        edge = (7 - size) // 2
        middle = large[:channels, :, edge : 7 - edge, edge : 7 - edge]
        assert torch.equal(subnet.get_parameter(f"blocks.{block}.conv_dw.weight"), middle)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_static_networks_give_the_same_maps_bit_for_bit(
    networks: dict[float, OnceForAllMobileNetV3], memory_format: torch.memory_format
) -> None:
    small = [(width, setting, images_of(seed, shape)) for width, setting, seed, shape in SETTINGS]
    more = [
        (width, setting, images_of(5, (3, 3, 64, 64)))
        for width, setting in zip((1.0, 1.2) * 2, random_settings(4), strict=True)
    ]
    for width, setting, images in small + more:
        images = images.contiguous(memory_format=memory_format)
        shared = networks[width](images, setting)  # with gradients
        static = networks[width].get_active_subnet(setting)
        with torch.inference_mode():
            own = static(images)
            without_gradients = networks[width](images, setting)
        for level, a, b, c in zip(setting.levels, shared, own, without_gradients, strict=True):
            assert torch.equal(a, b), setting
            assert torch.equal(a, c), setting
            assert a.shape[1] == block_level(level, width).channels
            assert a.shape[2] == -(-images.shape[2] // block_level(level, width).stride)


def test_static_networks_give_the_same_maps_on_two_threads(
    networks: dict[float, OnceForAllMobileNetV3],
) -> None:
    width, setting, seed, shape = SETTINGS[3]
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            shared = networks[width](images_of(seed, shape), setting)
            own = networks[width].get_active_subnet(setting)(images_of(seed, shape))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(shared, own, strict=True))


def test_maps_do_not_depend_on_what_is_not_run(
    networks: dict[float, OnceForAllMobileNetV3],
) -> None:
    images = images_of(1, (1, 3, 64, 64))
    one = replace(SMALL, depths=(2, 4, 2, 4, 4), levels=(2, 5))
    other = replace(
        one,
        kernel_sizes=(5, 3, 3, 5, 7, *(3,) * 15),
        expand_ratios=(3, 4, 3, 3, 6, *(4,) * 15),
        depths=(2, 3, 3, 3, 3),
    )
    with torch.inference_mode():
        for a, b in zip(networks[1.0](images, one), networks[1.0](images, other), strict=True):
            assert torch.equal(a, b)


def test_static_networks_hold_what_is_run_and_nothing_more(
    networks: dict[float, OnceForAllMobileNetV3],
) -> None:
    setting = setting_of("7" * 20, "3" * 20, "23422", (3 + 4, 11))
    static = networks[1.0].get_active_subnet(setting)
    assert type(static) is StaticNetwork
    assert list(static.blocks) == ["0", "1", "2", "5", "6", "7", "9", "10", "11"]
    assert not any("matrix" in key for key in static.state_dict())
    assert {name for name, _ in static.named_children()} == {"stem", "blocks"}
    assert not any(module.training for module in static.modules())
    assert not any(parameter.requires_grad for parameter in static.parameters())
    assert static.blocks["5"].conv_dw.weight.shape == (72, 1, 7, 7)  # 3 times 24
    assert static.blocks["6"].conv_dw.weight.shape == (120, 1, 7, 7)  # 3 times 40


def test_static_networks_have_weights_of_their_own(
    generated_network: Callable[[float], OnceForAllMobileNetV3],
) -> None:
    network = generated_network(1.0)
    before = state_copy(network)
    static = network.get_active_subnet(LARGEST)
    for value in static.state_dict().values():
        value.add_(1)
    assert_same(network.state_dict(), before)
    of_static = state_copy(static)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.sub_(1)
    assert_same(static.state_dict(), of_static)


def test_gradients_reach_large_kernels_matrices_and_leading_channels_alone(
    generated_network: Callable[[float], OnceForAllMobileNetV3],
) -> None:
    network = generated_network(1.0)
    (found,) = network(images_of(2, (2, 3, 32, 32)), SMALL)
    found.square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert {name.split(".")[1] for name in gradients if name.startswith("blocks")} == set("012")
    assert {name.split(".")[0] for name in gradients} == {"stem", "blocks"}
    assert {name for name in gradients if "matrix" in name} == {
        "blocks.1.7to5_matrix",
        "blocks.2.7to5_matrix",
        "blocks.2.5to3_matrix",
    }
    assert all(gradient.any() for gradient in gradients.values())
    for block, channels in (("1", 3 * 16), ("2", 4 * 24)):
        own = {name.removeprefix(f"blocks.{block}."): g for name, g in gradients.items()}
        for name in ("conv_pw.weight", "bn1.weight", "bn1.bias", "conv_dw.weight", "bn2.weight"):
            assert len(own[name]) > channels
            assert own[name][:channels].any()
            assert not own[name][channels:].any()
        assert own["conv_pwl.weight"][:, :channels].any()
        assert not own["conv_pwl.weight"][:, channels:].any()
        kernels = own["conv_dw.weight"][:channels].clone()
        assert kernels[:, :, 1:-1, 1:-1].any()
        kernels[:, :, 1:-1, 1:-1] = 0
        assert not kernels.any()


def test_training_updates_statistics_of_the_leading_channels(
    generated_network: Callable[[float], OnceForAllMobileNetV3],
) -> None:
    network = generated_network(1.0).train()
    before = state_copy(network)
    images = images_of(3, (4, 3, 32, 32))
    network(images, SMALL)
    after = network.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert all("running" in key or "num_batches" in key for key in changed)
    assert {key.split(".")[1] for key in changed if key.startswith("blocks")} == set("012")

    stem = torch.nn.functional.conv2d(images, before["first_conv.conv.weight"], None, 2, 1)
    for name, batch in (("mean", stem.mean((0, 2, 3))), ("var", stem.var((0, 2, 3)))):
        key = f"first_conv.bn.running_{name}"
        torch.testing.assert_close(after[key], 0.9 * before[key] + 0.1 * batch)
    for block, channels in (("1", 3 * 16), ("2", 4 * 24)):
        for norm in ("inverted_bottleneck", "depth_conv"):
            prefix = f"blocks.{block}.conv.{norm}.bn.bn."
            for key in (f"{prefix}running_mean", f"{prefix}running_var"):
                assert (after[key][:channels] != before[key][:channels]).all()
                assert torch.equal(after[key][channels:], before[key][channels:])
            assert after[f"{prefix}num_batches_tracked"] == 1
    assert after["blocks.3.conv.depth_conv.bn.bn.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_sizes": (7,) * 19},
        {"kernel_sizes": (7,) * 19 + (9,)},
        {"expand_ratios": (6,) * 21},
        {"expand_ratios": (5,) * 20},
        {"depths": (4,) * 4},
        {"depths": (4, 4, 1, 4, 4)},
        {"depths": (4, 4, 4, 4, 5)},
        {"levels": ()},
        {"levels": (0, 4)},
        {"levels": (21,)},
        {"levels": (8, 4)},
        {"levels": (4, 4)},
        {"depths": (2, 4, 4, 4, 4), "levels": (3, 20)},
        {"depths": (4, 4, 4, 4, 3), "levels": (20,)},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        replace(LARGEST, **change)
    assert "\n" not in str(caught.value)
