"""The published networks by name, with weights of every origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autopatch.errors import InputError
from autopatch.published import once_for_all
from autopatch.published.once_for_all import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OnceForAllSupernet,
    random_network,
)
from autopatch.supernet import Backbone, load_supernet, weights_files

State = dict[str, torch.Tensor]
NARROW = "ofa_mbv3_d234_e346_k357_w1.0"
WIDE = "ofa_mbv3_d234_e346_k357_w1.2"
BOTH = "ofa_mbv3"
WIDTHS = {NARROW: 1.0, WIDE: 1.2}
STEM = "first_conv.conv.weight"


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {name: random_network(width, seed=8).state_dict() for name, width in WIDTHS.items()}


@pytest.fixture(scope="module")
def folder(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of both networks, one with the names of its published checkpoint."""
    folder = tmp_path_factory.mktemp("weights") / "both"
    folder.mkdir()
    save_file(states[NARROW], folder / f"{NARROW}.safetensors")
    published = {
        key.replace(".conv.", ".mobile_inverted_conv.", 1): value
        for key, value in states[WIDE].items()
        if key.startswith("blocks.")
    }
    rest = {key: value for key, value in states[WIDE].items() if not key.startswith("blocks.")}
    save_file({**rest, **published}, folder / f"{WIDE}.safetensors", metadata={"net_id": WIDE})
    return folder


def assert_holds(supernet: object, states: Mapping[str, State]) -> None:
    assert isinstance(supernet, OnceForAllSupernet)
    assert set(supernet.networks) == states.keys()
    for name, wanted in states.items():
        network = supernet._networks[name]
        assert network.width == WIDTHS[name]
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        found = network.state_dict()
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert torch.equal(found[key], value), key


def refused(space: str, weights: str, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        load_supernet(space, weights, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_random_weights_follow_the_seed_and_say_so() -> None:
    before = torch.get_rng_state()
    first, again, other = (load_supernet(BOTH, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(again, OnceForAllSupernet)
    assert_holds(first, {name: net.state_dict() for name, net in again._networks.items()})
    assert first.networks == (NARROW, WIDE)
    for name in WIDTHS:
        stems = [each._networks[name].state_dict()[STEM] for each in (first, other)]
        assert not torch.equal(*stems)
    assert first.random_features
    assert "RANDOM" in first.provenance
    assert "seed 1" in first.provenance
    assert (first.name, first.mean, first.std) == (BOTH, IMAGENET_MEAN, IMAGENET_STD)
    assert not first.recalibrate_batch_norm


def test_random_features_are_of_use() -> None:
    supernet = load_supernet(NARROW, "random")
    setting = {"kernel_size": (3,) * 5, "expand_ratio": (6,) * 5}
    subnet = supernet.get_active_subnet(Backbone(NARROW, (4, 20), setting))
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        for feature_map in subnet(subnet.normalize(images)):
            assert feature_map.isfinite().all()
            assert 1e-3 < feature_map.std() < 1e3


def test_one_network_alone() -> None:
    supernet = load_supernet(WIDE, "random", seed=8)
    assert supernet.name == WIDE
    assert supernet.networks == (WIDE,)
    with pytest.raises(InputError, match=f"of {NARROW}, the backbone is {WIDE}$"):
        supernet.flops(Backbone(NARROW, (1,), {"kernel_size": (3,), "expand_ratio": (3,)}), 64)


def test_settings_of_the_input_and_of_batch_norm() -> None:
    supernet = load_supernet(
        NARROW, "random", mean=(0, 0.5, 1), std=(1, 2, 3), recalibrate_batch_norm=True
    )
    assert (supernet.mean, supernet.std) == ((0, 0.5, 1), (1, 2, 3))
    assert supernet.recalibrate_batch_norm
    assert supernet.provenance.endswith(", batch norm recalibrated on the good images")
    assert "mean" in refused(NARROW, "random", mean=(0.5, 0.5))
    assert "std" in refused(NARROW, "random", std=(1, 0, 1))


@pytest.mark.parametrize(
    ("space", "weights", "settings", "named"),
    [
        ("ofa_mbv4", "random", {}, ("ofa_mbv4", BOTH, NARROW, WIDE, "timm:<model name>")),
        (f"{BOTH}:{WIDE}", "random", {}, (f"'{BOTH}:{WIDE}' is unknown", BOTH)),
        (BOTH, "random", {"timm_kwargs": {}}, ("timm_kwargs", BOTH)),
        (NARROW, "random", {"timm_kwargs": {"a": 1}}, ("timm_kwargs", NARROW)),
        (BOTH, "pretrained", {}, ("timm", "auto")),
        (NARROW, "pretrained", {}, ("timm", "auto")),
    ],
)
def test_arguments_that_do_not_belong_together(
    space: str, weights: str, settings: dict[str, object], named: tuple[str, ...]
) -> None:
    message = refused(space, weights, **settings)
    assert all(part in message for part in named)


def test_weights_of_a_folder(folder: Path, states: dict[str, State]) -> None:
    supernet = load_supernet(BOTH, str(folder), seed=1)
    assert_holds(supernet, states)
    assert not supernet.random_features
    assert supernet.provenance == "weights of both"
    alone = load_supernet(NARROW, str(folder))
    assert_holds(alone, {NARROW: states[NARROW]})
    assert alone.networks == (NARROW,)
    assert supernet.weights_sha256 == load_supernet(BOTH, str(folder)).weights_sha256
    assert supernet.weights_sha256 != alone.weights_sha256
    with torch.no_grad():
        supernet._networks[WIDE].classifier["linear"].bias[0] += 1
    changed = OnceForAllSupernet(BOTH, supernet._networks, provenance="")
    assert changed.weights_sha256 != supernet.weights_sha256
    backbone = Backbone(WIDE, (2, 7), {"kernel_size": (5, 3), "expand_ratio": (4, 6)})
    direct = OnceForAllSupernet(BOTH, {WIDE: random_network(1.2, seed=8)}, provenance="")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, like in zip(
            supernet.get_active_subnet(backbone)(images),
            direct.get_active_subnet(backbone)(images),
            strict=True,
        ):
            assert torch.equal(ours, like)


def test_a_folder_must_hold_what_is_asked_for(
    tmp_path: Path, folder: Path, states: dict[str, State]
) -> None:
    assert f"{NARROW}.safetensors" in refused(BOTH, str(tmp_path))
    (tmp_path / f"{NARROW}.safetensors").symlink_to(folder / f"{NARROW}.safetensors")
    assert f"{WIDE}.safetensors" in refused(BOTH, str(tmp_path))
    assert_holds(load_supernet(NARROW, str(tmp_path)), {NARROW: states[NARROW]})
    (tmp_path / f"{WIDE}.safetensors").symlink_to(folder / f"{NARROW}.safetensors")
    assert "shape" in refused(BOTH, str(tmp_path))


def test_the_files_that_are_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / WIDE).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not read")
    assert weights_files(WIDE, str(tmp_path)) == [tmp_path / WIDE]
    both = [folder / f"{name}.safetensors" for name in (NARROW, WIDE)]
    assert weights_files(BOTH, str(folder)) == both
    assert weights_files(NARROW, str(both[0])) == both[:1]
    for word in ("auto", "pretrained", "random"):
        assert weights_files(BOTH, word) == []
    with pytest.raises(InputError, match=f"{tmp_path}: no weights in the folder"):
        weights_files(BOTH, str(tmp_path))
    for absent in ("absent", ""):
        with pytest.raises(InputError, match="no such file or folder, expected weights"):
            weights_files(BOTH, absent)


def test_one_file_is_enough_for_one_network(folder: Path, states: dict[str, State]) -> None:
    path = folder / f"{NARROW}.safetensors"
    supernet = load_supernet(NARROW, str(path))
    assert_holds(supernet, {NARROW: states[NARROW]})
    assert supernet.provenance == f"weights of {path.name}"
    message = refused(NARROW, str(folder / f"{WIDE}.safetensors"))
    assert f"holds weights of {WIDE}, expected {NARROW}" in message
    assert "no such file" in refused(NARROW, str(folder / "absent.safetensors"))


@pytest.mark.parametrize("file", [f"{NARROW}.safetensors", "absent"])
def test_one_file_is_not_enough_for_both_networks(folder: Path, file: str) -> None:
    message = refused(BOTH, str(folder / file))
    assert str(folder / file) in message
    assert "folder" in message
    assert any(f"such as {name}" in message for name in WIDTHS)


@pytest.mark.parametrize(("space", "names"), [(BOTH, [NARROW, WIDE]), (WIDE, [WIDE])])
def test_official_weights_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, State], space: str, names: list[str]
) -> None:
    calls = []

    def official(
        net_id: str, expected: Mapping[str, torch.Size], *, progress: object = None
    ) -> State:
        calls.append((net_id, progress))
        assert expected == {key: value.shape for key, value in states[net_id].items()}
        return dict(states[net_id])

    def told(step: str, done: int, total: int) -> None:
        pass

    monkeypatch.setattr(once_for_all, "official_weights", official)
    supernet = load_supernet(space, "auto", progress=told)
    assert calls == [(name, told) for name in names]
    assert_holds(supernet, {name: states[name] for name in names})
    assert "published" in supernet.provenance
    assert not supernet.random_features
