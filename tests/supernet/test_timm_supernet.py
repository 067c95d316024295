from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autopatch.detector import (
    Architecture,
    Head,
    Input,
    patchcore_architecture,
)
from autopatch.detector.patchcore import MAX_BANK_SIZE
from autopatch.errors import InputError
from autopatch.search import SearchSpace, compose_space
from autopatch.supernet import (
    Backbone,
    Level,
    TimmSupernet,
    load_supernet,
    restore_subnet,
    tensors_sha256,
    timm_supernet,
)

SWIN = "swin_tiny_patch4_window7_224"
NARROW_SWIN = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}

# One model for each way in which timm extracts features, with image sizes and arguments that are
# fast.
FAMILIES: list[tuple[str, int, dict[str, Any]]] = [
    ("mobilenetv2_050", 64, {}),
    ("tf_mobilenetv3_small_075", 64, {}),
    ("test_resnet", 64, {}),
    ("test_convnext", 64, {}),
    ("dla34", 64, {"channels": [8, 16, 16, 32, 64, 128]}),
    ("densenet121", 64, {"block_config": [2, 2, 2, 2]}),
    (SWIN, 224, NARROW_SWIN),
    ("test_vit", 160, {}),
]


def at(supernet: TimmSupernet, levels: Sequence[int]) -> Backbone:
    return Backbone(supernet.name, tuple(levels))


def levels_of(supernet: TimmSupernet) -> tuple[Level, ...]:
    return supernet.all_levels(supernet.name)


def flops_of_run(model: torch.nn.Module, image_size: int) -> int:
    # Not every torch counts the attention kernel of the CPU; as matrix products all of them do.
    products = sdpa_kernel(SDPBackend.MATH)
    images = torch.zeros(1, 3, image_size, image_size)
    with products, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


@pytest.mark.parametrize(("model", "image_size", "arguments"), FAMILIES)
def test_subnets_give_timms_features_and_run_nothing_more(
    model: str, image_size: int, arguments: dict[str, Any]
) -> None:
    supernet = load_supernet(f"timm:{model}", "random", seed=1, timm_kwargs=arguments)
    indices = [level.index for level in levels_of(supernet)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = timm.create_model(model, features_only=True, out_indices=indices, **arguments)
    whole = whole.eval().to(memory_format=torch.channels_last)
    assert whole.feature_info.reduction() == [level.stride for level in levels_of(supernet)]
    images = torch.randn(2, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = dict(zip(indices, whole(images), strict=True))
    nhwc = model.startswith("swin")

    last = len(indices) - 1
    chosen = [indices, indices[:1], [indices[0], indices[last // 2]]]
    counts = []
    for levels in chosen:
        subnet = supernet.get_active_subnet(at(supernet, levels))
        assert not subnet.training
        assert not any(parameter.requires_grad for parameter in subnet.parameters())
        with torch.inference_mode():
            maps = subnet(images)
        for level, feature_map in zip(subnet.levels, maps, strict=True):
            like = expected[level.index]
            like = like.permute(0, 3, 1, 2) if nhwc else like
            scale = float(like.abs().max())
            torch.testing.assert_close(feature_map, like, rtol=0, atol=1e-5 * scale)
            size = image_size // level.stride
            assert feature_map.shape == (2, level.channels, size, size)
        counts.append(flops_of_run(subnet, image_size))
        assert supernet.flops(at(supernet, levels), image_size) == counts[-1]
        assert supernet.grid(at(supernet, levels), image_size) == tuple(maps[0].shape[2:])
        assert subnet.trace(image_size) == ([tuple(m.shape[2:]) for m in maps], counts[-1])
        grids = supernet.grids(supernet.name, image_size)
        assert [grids[level] for level in levels] == [tuple(m.shape[2:]) for m in maps]
    assert counts[0] > counts[2] > counts[1]
    assert counts[0] <= flops_of_run(whole, image_size)


def test_flops_depend_on_the_deepest_level_alone(supernet: TimmSupernet) -> None:
    for count in (1, 2, 3, 4):
        for levels in combinations([1, 2, 3, 4], count):
            subnet = supernet.get_active_subnet(at(supernet, levels))
            assert supernet.flops(at(supernet, levels), 64) == flops_of_run(subnet, 64)


def test_levels_of_stride_4_and_above(supernet: TimmSupernet) -> None:
    assert supernet.name == "timm:mobilenetv2_050"
    assert levels_of(supernet) == (
        Level(1, 4, 16),
        Level(2, 8, 16),
        Level(3, 16, 48),
        Level(4, 32, 160),
    )


@pytest.mark.parametrize("levels", [[], [0], [5], [2, 1], [1, 1]])
def test_levels_that_cannot_be_chosen(supernet: TimmSupernet, levels: list[int]) -> None:
    with pytest.raises(InputError, match="level"):
        supernet.get_active_subnet(at(supernet, levels))


def test_architectures_of_others_are_refused(supernet: TimmSupernet) -> None:
    with pytest.raises(InputError, match=r"of timm:x, the backbone is timm:mobilenetv2_050"):
        supernet.get_active_subnet(replace(at(supernet, [1]), network="timm:x"))
    elastic = Backbone(supernet.name, (1,), {"kernel_size": (3,), "expand_ratio": (4,)})
    for ask in (
        supernet.check,
        supernet.get_active_subnet,
        lambda backbone: supernet.flops(backbone, 64),
    ):
        with pytest.raises(InputError, match="no expand_ratio or kernel_size to choose"):
            ask(elastic)


def test_arguments_of_timm_count(supernet: TimmSupernet) -> None:
    dilated = load_supernet(
        "timm:mobilenetv2_050", "random", timm_kwargs={"output_stride": 16, "pad_type": "same"}
    )
    assert [level.stride for level in levels_of(dilated)] == [4, 8, 16, 16]
    names = [gene.name for gene in compose_space(dilated).genes]
    assert [name for name in names if name.startswith("use")] == [
        f"use_level{index}" for index in (1, 2, 3, 4)
    ]
    assert dilated.flops(at(dilated, [4]), 64) > supernet.flops(at(supernet, [4]), 64)


def test_images_are_normalized(supernet: TimmSupernet) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normalized = supernet.get_active_subnet(at(supernet, [1])).normalize(images)
    mean = torch.tensor(supernet.mean).view(3, 1, 1)
    std = torch.tensor(supernet.std).view(3, 1, 1)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized, (images / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="uint8"):
        supernet.get_active_subnet(at(supernet, [1])).normalize(images.float())


def test_random_weights_follow_the_seed_and_say_so() -> None:
    before = torch.get_rng_state()
    key = "conv_stem.weight"
    first, again, other = (
        load_supernet("timm:mobilenetv2_050", "random", seed=seed) for seed in (1, 1, 2)
    )
    tensors = [
        each.get_active_subnet(at(each, [1])).network.state_dict()[key]
        for each in (first, again, other)
    ]
    assert torch.equal(tensors[0], tensors[1])
    assert not torch.equal(tensors[0], tensors[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert first.random_features
    assert "random" in first.provenance.lower()


def test_subnets_share_the_weights(supernet: TimmSupernet) -> None:
    one, two = (
        supernet.get_active_subnet(at(supernet, [level])).network.conv_stem.weight
        for level in (1, 4)
    )
    assert one.data_ptr() == two.data_ptr()


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize(
    ("model", "size", "arguments"),
    [("mobilenetv2_050", 64, {}), ("resnetv2_18", 64, {}), (SWIN, 224, NARROW_SWIN)],
)
def test_a_subnet_is_restored_from_header_and_state(
    model: str, size: int, arguments: dict[str, Any], folds: bool
) -> None:
    supernet = load_supernet(f"timm:{model}", "random", seed=5, timm_kwargs=arguments)
    levels = [level.index for level in levels_of(supernet)][:2]
    subnet = supernet.get_active_subnet(at(supernet, levels))
    if folds:
        subnet.fold(size)
    header = json.loads(json.dumps(subnet.to_header()))
    state = {key: value.contiguous() for key, value in subnet.state_dict().items()}
    restored = restore_subnet(header)
    restored.load_state_dict(state)
    assert restored.to_header() == subnet.to_header()
    assert restored.trace(size) == subnet.trace(size)
    assert not restored.training
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        for ours, like in zip(
            restored(restored.normalize(images)), subnet(subnet.normalize(images)), strict=True
        ):
            assert torch.equal(ours, like)


def test_a_subnet_may_be_written_to_without_harm_to_others(supernet: TimmSupernet) -> None:
    whole = supernet.weights_sha256
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    other = load_supernet(supernet.name, "random", seed=5)
    for folds in (False, True):
        subnet, wanted = (s.get_active_subnet(at(s, [1])) for s in (supernet, other))
        if folds:
            subnet.fold(64)
            wanted.fold(64)
        subnet.load_state_dict(wanted.state_dict())
        for found, expected in zip(subnet(images), wanted(images), strict=True):
            assert torch.equal(found, expected)
    supernet.get_active_subnet(at(supernet, [1])).recalibrate([images])
    assert tensors_sha256(supernet.weights()) == whole


def test_a_folded_subnet_refuses_weights_that_are_not_folded(supernet: TimmSupernet) -> None:
    subnet = supernet.get_active_subnet(at(supernet, [1]))
    plain = subnet.state_dict()
    subnet.fold(64)
    with pytest.raises(RuntimeError, match="a batch norm that this subnet has folded"):
        subnet.load_state_dict(plain, strict=False)


def test_a_restored_subnet_must_fit_exactly(supernet: TimmSupernet) -> None:
    subnet = supernet.get_active_subnet(at(supernet, [1]))
    header, state = subnet.to_header(), subnet.state_dict()
    key = next(iter(state))
    for wrong in (
        {k: v for k, v in state.items() if k != key},
        {**state, "more": torch.zeros(1)},
        {**state, key: torch.zeros(1)},
    ):
        with pytest.raises(RuntimeError, match="Error"):
            restore_subnet(header).load_state_dict(wrong)
    for change in (
        {"recipe": {**header["recipe"], "network": "timm:no_such_model"}},
        {"recipe": {**header["recipe"], "network": "no_such_network"}},
        {"recipe": {**header["recipe"], "timm_kwargs": {"checkpoint_path": "x"}}},
        {"std": [0, 1, 1]},
    ):
        with pytest.raises(InputError):
            restore_subnet({**header, **change})
    for absent in header:
        with pytest.raises(KeyError):
            restore_subnet({key: value for key, value in header.items() if key != absent})
    for pair in (["conv_stem", "no_such_part"], ["bn1", "conv_stem"]):
        with pytest.raises(ValueError, match="not a convolution and a batch norm"):
            restore_subnet({**header, "folded": [pair]})
    with pytest.raises(ValueError, match="unpack"):
        restore_subnet({**header, "folded": [["conv_stem"]]})


def test_names_of_levels(supernet: TimmSupernet) -> None:
    whole = Architecture(Input(224), at(supernet, (2, 4)), Head((3, 1), None))
    assert whole.describe(supernet) == "224 px, stride 8 p3 + stride 32 p1, all patches"
    assert supernet.describe(whole.backbone) == ""
    assert supernet.level_names(whole.backbone) == ("stride 8", "stride 32")
    vit = load_supernet("timm:vit_tiny_patch16_224", "random")
    same_stride = Architecture(Input(224), at(vit, (2, 4)), Head((3, 1), 5000))
    assert same_stride.describe(vit) == "224 px, level 2 p3 + level 4 p1, bank 5000"


def of_the_whole(space: SearchSpace) -> int:
    """Number of combinations of the genes that do not belong to a level."""
    return math.prod(len(gene.choices) for gene in space.genes if gene.slot is None)


def test_search_space(supernet: TimmSupernet) -> None:
    choices = {"image_size": (64, 96), "patch_size": (1, 3), "bank_size": (100, None)}
    space = compose_space(supernet, choices=Head.off_choices() | choices)
    assert space.name == supernet.name
    wanted: list[tuple[str, tuple[object, ...]]] = [
        ("image_size", (64, 96)),
        ("bank_size", (100, None)),
    ]
    for s in (4, 8, 16, 32):
        wanted += [(f"use_stride{s}", (False, True)), (f"patch_size_stride{s}", (1, 3))]
    assert [(gene.name, gene.choices) for gene in space.genes] == wanted
    assert space.size() == 2 * 2 * (3**4 - 1)
    assert SearchSpace.from_json(space.to_json()) == space


@pytest.mark.parametrize(
    "choices", [{"image_size": (16,)}, {"patch_size": (17,)}, {"bank_size": (0,)}]
)
def test_choices_out_of_range(supernet: TimmSupernet, choices: dict[str, tuple[int]]) -> None:
    with pytest.raises(InputError):
        compose_space(supernet, choices=choices)


def test_backbones_of_one_image_size() -> None:
    vit = load_supernet("timm:vit_tiny_patch16_224", "random")
    assert [level.index for level in levels_of(vit)] == list(range(12))
    space = compose_space(vit, choices={"image_size": (224,)})
    assert space.size() == of_the_whole(space) * (19**12 - 1)
    with pytest.raises(InputError, match="160"):
        compose_space(vit)
    assert vit.patchcore() is None
    assert patchcore_architecture(vit, images=10) is None
    flexible = load_supernet(
        "timm:vit_tiny_patch16_224", "random", timm_kwargs={"dynamic_img_size": True}
    )
    assert flexible.grid(at(flexible, [9, 11]), 160) == (10, 10)


def test_patchcore_setting(supernet: TimmSupernet) -> None:
    architecture = patchcore_architecture(supernet, images=13)
    assert architecture is not None
    patches = 13 * 28 * 28
    text = f"224 px, stride 8 p3 + stride 16 p3, bank {round(patches / 10)}"
    assert architecture.describe(supernet) == text
    many = patchcore_architecture(supernet, images=1000)
    assert many is not None
    assert many.head.bank_size == MAX_BANK_SIZE


def test_largest_backbones_and_shared_maps(supernet: TimmSupernet) -> None:
    largest, patchcore = at(supernet, (1, 2, 3, 4)), at(supernet, (2, 3))
    assert (supernet.largest(), supernet.patchcore()) == (largest, patchcore)
    assert supernet.shared(patchcore) == supernet.shared(largest) == largest
    assert supernet.largest((2, 4)) == at(supernet, (2, 4))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("mobilenetv2_050", "timm:"),
        ("timm", "timm:<model name>"),
        ("ofa_mbv4", "ofa_mbv3"),
        ("timm:mobilnetv2_050", "mobilenetv2_050"),
        ("timm:mobilenetv2_050.no_such_tag", "no_such_tag"),
        ("timm:hrnet_w18_small", "cannot be cut"),
    ],
)
def test_spaces_that_cannot_be_had(space: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        load_supernet(space, "random")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offline", [True, False])
def test_pretrained_without_network_fails_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    # Nothing listens on this port.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(InputError, match="random") as caught:
        load_supernet("timm:mobilenetv2_050", "pretrained")
    assert time.perf_counter() - start < 10
    assert "`weights`: FILE.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert offline == huggingface_hub.constants.HF_HUB_OFFLINE


def test_weights_of_the_hub_and_random_ones_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub may change the weights of a name at any time."""
    create = timm.create_model
    stored = [1.0, 1.0, 2.0]

    def create_pretrained(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        model: nn.Module = create(name, **options)
        if pretrained:
            for value in model.state_dict().values():
                value.fill_(stored[0])
            del stored[0]
        return model

    monkeypatch.setattr(timm, "create_model", create_pretrained)
    monkeypatch.setattr(timm_supernet, "_hub_reachable", lambda: True)
    hashes = []
    while stored:
        supernet = load_supernet("timm:mobilenetv2_050", "pretrained")
        assert "hub" in supernet.provenance
        hashes.append(supernet.weights_sha256)
    for seed in (1, 1, 2):
        hashes.append(load_supernet("timm:mobilenetv2_050", "random", seed=seed).weights_sha256)
    first, again, changed, *random = hashes
    assert first == again
    assert random[0] == random[1]
    assert len({first, changed, random[0], random[2]}) == 4


@pytest.mark.parametrize("model", ["mobilenetv2_100", "tf_mobilenetv3_small_075"])
def test_real_weights(shared_weights: Path, model: str) -> None:
    supernet = load_supernet(f"timm:{model}", str(shared_weights / f"{model}.safetensors"))
    assert supernet.mean == supernet.std == (0.5, 0.5, 0.5)
    assert not supernet.random_features
    assert f"{model}.safetensors" in supernet.provenance
    space = compose_space(supernet)
    assert space.size() == of_the_whole(space) * (19**4 - 1)
    subnet = supernet.get_active_subnet(at(supernet, [1, 2, 3, 4]))
    ramp = torch.linspace(0, 255, 160).to(torch.uint8).expand(1, 3, 160, 160)
    with torch.inference_mode():
        for level, feature_map in zip(subnet.levels, subnet(subnet.normalize(ramp)), strict=True):
            assert feature_map.shape == (
                1,
                level.channels,
                160 // level.stride,
                160 // level.stride,
            )
            assert feature_map.isfinite().all()
            assert feature_map.std() > 0.05


def test_running_out_of_memory_does_not_blame_the_image_size(
    supernet: TimmSupernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    subnet = supernet.get_active_subnet(at(supernet, (1,)))

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(subnet, "_maps", fail)
    with pytest.raises(torch.OutOfMemoryError):
        subnet.trace(64)


def test_tracing_copies_no_weights(supernet: TimmSupernet, monkeypatch: pytest.MonkeyPatch) -> None:
    subnet = supernet.get_active_subnet(at(supernet, (1,)))
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", None)
    assert subnet.trace(64)[1] > 0
