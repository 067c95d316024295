from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autopatch.data import draw_textures, load_images
from autopatch.detector import (
    Architecture,
    Detector,
    Head,
    Input,
    cut_subnet,
    patchcore_architecture,
)
from autopatch.errors import InputError
from autopatch.published.flops import published_cost
from autopatch.published.once_for_all import (
    NETWORKS,
    PUBLISHED,
    OnceForAllSupernet,
    backbone_cost,
    block_names,
    describe_setting,
    once_for_all_setting,
)
from autopatch.published.space import published_space
from autopatch.search import SearchSpace, compose_space
from autopatch.supernet import Backbone, Level, Preset, Subnet, load_supernet, restore_subnet

NARROW = "ofa_mbv3_d234_e346_k357_w1.0"
WIDE = "ofa_mbv3_d234_e346_k357_w1.2"
BACKBONE = Backbone(NARROW, (3, 6), {"kernel_size": (5, 3), "expand_ratio": (4, 3)})
ARCHITECTURE = Architecture(Input(64), BACKBONE, Head((3, 2), 60))
STAGE_GENES = ("kernel_size", "expand_ratio", "block", "patch_size")


@pytest.fixture(scope="module")
def supernet() -> OnceForAllSupernet:
    """Both networks, with random matrices, norms and statistics, so that these affect the
    result."""
    supernet = load_supernet("ofa_mbv3", "random", seed=4)
    generator = torch.Generator().manual_seed(4)
    for network in supernet._networks.values():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point() and ("matrix" in name or value.ndim == 1):
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
                value.add_(0.05 * torch.rand(value.shape, generator=generator))
    return supernet


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return published_space()


def backbone_of(
    network: str, levels: Sequence[int], kernel_size: Sequence[int], expand_ratio: Sequence[int]
) -> Backbone:
    setting = {"kernel_size": tuple(kernel_size), "expand_ratio": tuple(expand_ratio)}
    return Backbone(network, tuple(levels), setting)


def choices_of(supernet: OnceForAllSupernet, **choices: tuple[int | None, ...]) -> SearchSpace:
    return compose_space(supernet, choices=choices)


def published_of(
    supernet: OnceForAllSupernet, bank_sizes: tuple[int | None, ...] = (None,)
) -> SearchSpace:
    preset = supernet.presets["published"]
    return compose_space(supernet, preset=preset, choices={"bank_size": bank_sizes})


def any_genome(space: SearchSpace, rng: np.random.Generator) -> tuple[int, ...]:
    """A valid genome with random inert genes."""
    while True:
        genome = tuple(int(rng.integers(len(gene.choices))) for gene in space.genes)
        if space.is_valid(genome):
            return genome


def pixels(seed: int, image_size: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, image_size, image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def state_copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def size_by_hand(shared: int, blocks: int, patch_sizes: int) -> int:
    """Sums over all selections of stages: their own choices, and the choices up to the deepest
    stage."""
    total = 0
    for count in range(1, 6):
        for chosen in combinations(range(5), count):
            total += (3 * 3) ** (max(chosen) + 1) * (blocks * patch_sizes) ** count
    return shared * total


def test_the_published_genes(space: SearchSpace) -> None:
    assert space.name == "ofa_mbv3"
    assert space.fixed == {"input.image_size": 224, "head.bank_size": None}
    wanted: list[tuple[str, tuple[object, ...]]] = [("supernet_name", (NARROW, WIDE))]
    for s in range(5):
        blocks = (None, 4 * s + 1, 4 * s + 2, 4 * s + 3, 4 * s + 4)
        choices = ((3, 5, 7), (3, 4, 6), blocks, tuple(range(1, 17)))
        wanted += [
            (f"stage_{s}_{name}", values) for name, values in zip(STAGE_GENES, choices, strict=True)
        ]
    assert [(gene.name, gene.choices) for gene in space.genes] == wanted
    blocks = [f"stage_{s}_block" for s in range(5)]
    for gene in space.genes[1:]:
        stage = int(gene.name.split("_")[1])
        later = {"level": (), "patch_size": (blocks[stage],)}
        assert gene.slot == stage
        assert gene.active_if == later.get(gene.field, tuple(blocks[stage:]))
    assert len(space.genes) == 21
    assert math.prod(len(gene.choices) for gene in space.genes) == 2 * 720**5
    assert space.size() == size_by_hand(2, 4, 16)
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_published_genes_of_one_network_and_of_several_banks() -> None:
    space = published_space([WIDE], bank_sizes=(100, None))
    assert space.name == WIDE
    assert [gene.name for gene in space.genes][:2] == ["bank_size", "stage_0_kernel_size"]
    assert space.size() == size_by_hand(2, 4, 16)
    assert space.decode((0,) * 3 + (1,) + (0,) * 17).backbone.network == WIDE


def test_the_default_space(supernet: OnceForAllSupernet) -> None:
    space = choices_of(supernet)
    names = [gene.name for gene in space.genes]
    assert names[:3] == ["supernet_name", "image_size", "bank_size"]
    whole = [gene for gene in space.genes if gene.slot is None]
    assert names[len(whole)] == "stage_0_kernel_size"
    # A level has one of 6 patch sizes and one of 3 weights.
    assert space.size() == size_by_hand(math.prod(len(gene.choices) for gene in whole), 4, 6 * 3)
    assert published_of(supernet) == published_space()
    assert supernet.presets == {"default": Preset(fix_single_choices=True), "published": PUBLISHED}

    alone = OnceForAllSupernet(NARROW, {NARROW: supernet._networks[NARROW]}, provenance="")
    only = {"image_size": (33,), "patch_size": (2,), "bank_size": (None,)}
    space = choices_of(alone, **Head.off_choices(), **only)
    assert space.name == NARROW
    assert space.fixed == {"input.image_size": 33, "head.bank_size": None}
    assert len(space.genes) == 20
    assert space.size() == size_by_hand(1, 4, 1)
    assert published_of(alone) == published_space([NARROW])


@pytest.mark.parametrize(
    "choices",
    [
        {"image_size": (224, 32)},
        {"image_size": (1025,)},
        {"patch_size": (0,)},
        {"bank_size": (0,)},
        {"bank_size": ()},
    ],
)
def test_choices_out_of_range(
    supernet: OnceForAllSupernet, choices: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises(InputError) as caught:
        choices_of(supernet, **choices)
    assert "\n" not in str(caught.value)


def test_a_stage_runs_up_to_its_block_but_two_at_least(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        genome = any_genome(space, rng)
        chosen = {g.name: g.choices[c] for g, c in zip(space.genes, genome, strict=True)}
        blocks = [chosen[f"stage_{s}_block"] for s in range(5)]
        last = max(s for s in range(5) if blocks[s] is not None)
        run = [
            4 * s + place
            for s in range(last + 1)
            for place in range(1, 5)
            if place <= max(2, (blocks[s] or 0) - 4 * s)
            and 4 * s + place <= max(filter(None, blocks))
        ]
        architecture = space.decode(genome)
        backbone = architecture.backbone
        setting = once_for_all_setting(backbone)
        assert list(setting.blocks()) == run
        assert list(setting.levels) == [block for block in blocks if block is not None]
        assert backbone.levels == setting.levels
        assert backbone.network == chosen["supernet_name"]
        assert {name: len(values) for name, values in backbone.setting.items()} == {
            "kernel_size": last + 1,
            "expand_ratio": last + 1,
        }
        for block in run:
            stage = (block - 1) // 4
            assert setting.kernel_sizes[block - 1] == chosen[f"stage_{stage}_kernel_size"]
            assert setting.expand_ratios[block - 1] == chosen[f"stage_{stage}_expand_ratio"]
        patch_sizes = [chosen[f"stage_{s}_patch_size"] for s in range(5) if blocks[s] is not None]
        assert list(architecture.head.patch_sizes) == patch_sizes
        assert (architecture.input.size, architecture.head.bank_size) == (224, None)


def test_inert_genes_change_nothing_and_active_genes_the_architecture(space: SearchSpace) -> None:
    rng = np.random.default_rng(2)
    inert = 0
    for _ in range(60):
        genome = any_genome(space, rng)
        architecture = space.decode(genome)
        for i, active in enumerate(space.active(genome)):
            for choice in {*range(len(space.genes[i].choices))} - {genome[i]}:
                other = (*genome[:i], choice, *genome[i + 1 :])
                if not active:
                    inert += 1
                    assert space.decode(other) == architecture
                    assert space.canonical(other) == space.canonical(genome)
                elif space.is_valid(other):
                    assert space.decode(other) != architecture
                    assert space.canonical(other) != space.canonical(genome)
                else:
                    assert (space.genes[i].field, choice) == ("level", 0)
    assert inert > 100


def test_round_trips_of_architectures(space: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        genome = any_genome(space, rng)
        architecture = space.decode(genome)
        canonical = space.canonical(genome)
        assert space.encode(architecture) == canonical
        assert space.decode(canonical) == architecture
        assert space.genome(json.loads(json.dumps(space.parameters(genome)))) == canonical
        written = json.loads(json.dumps(architecture.to_json()))
        assert Architecture.from_json(written) == architecture


def test_a_stage_has_one_block_in_the_space(space: SearchSpace) -> None:
    architecture = Architecture(Input(224), BACKBONE, Head((3, 2)))
    assert space.decode(space.encode(architecture)) == architecture
    with pytest.raises(InputError, match="level"):
        space.encode(replace(architecture, backbone=replace(BACKBONE, levels=(5, 6))))


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": (5, 4)},
        {"kernel_size": (5, True)},
        {"kernel_size": (5, "3")},
        {"kernel_size": (5,)},
        {"kernel_size": 5},
        {"expand_ratio": (4, 5)},
        {"expand_ratio": (4, 3.0)},
        {"depth": (2, 2)},
    ],
)
def test_settings_out_of_range(supernet: OnceForAllSupernet, change: dict[str, object]) -> None:
    backbone = replace(BACKBONE, setting={**BACKBONE.setting, **change})
    for ask in (supernet.check, once_for_all_setting, supernet.get_active_subnet):
        with pytest.raises(InputError, match="|".join(change).replace("_", ".")) as caught:
            ask(backbone)
        assert "\n" not in str(caught.value)


def test_a_setting_is_a_value_for_each_stage(supernet: OnceForAllSupernet) -> None:
    for name in BACKBONE.setting:
        rest = {key: value for key, value in BACKBONE.setting.items() if key != name}
        with pytest.raises(InputError, match=r"the setting has \['\w+'\], expected"):
            supernet.check(replace(BACKBONE, setting=rest))


@pytest.mark.parametrize("image_size", [33, 64, 75, 96, 225])
def test_grid_levels_and_flops_are_those_of_the_subnet(
    supernet: OnceForAllSupernet, space: SearchSpace, image_size: int
) -> None:
    rng = np.random.default_rng(image_size)
    every_stage = backbone_of(WIDE, (1, 5, 9, 13, 17), (3,) * 5, (3,) * 5)
    drawn = [space.decode(any_genome(space, rng)).backbone for _ in range(2)]
    for backbone in [every_stage, *drawn]:
        supernet.check(backbone)
        assert supernet.shared(backbone) == backbone
        subnet = supernet.get_active_subnet(backbone)
        images = subnet.normalize(pixels(1, image_size, 1))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            maps = subnet(images)
        sizes = [tuple(m.shape[2:]) for m in maps]
        assert supernet.flops(backbone, image_size) == counter.get_total_flops()
        assert supernet.grid(backbone, image_size) == sizes[0] == max(sizes)
        assert subnet.trace(image_size) == (sizes, counter.get_total_flops())
        grids = supernet.grids(backbone.network, image_size)
        assert [grids[level] for level in backbone.levels] == sizes
        levels = supernet.levels(backbone)
        assert levels == subnet.levels
        assert tuple(level.index for level in levels) == backbone.levels
        for level, feature_map in zip(levels, maps, strict=True):
            side = -(-image_size // level.stride)
            assert feature_map.shape == (1, level.channels, side, side)
        width = float(backbone.network[-3:])
        cost = published_cost(width, once_for_all_setting(backbone), image_size)
        assert backbone_cost(backbone, image_size) == cost


def test_strides_and_channels_of_the_stages(supernet: OnceForAllSupernet) -> None:
    first = backbone_of(NARROW, (1, 5, 9, 13, 17), (3,) * 5, (3,) * 5)
    wanted = {NARROW: (24, 40, 80, 112, 160), WIDE: (32, 48, 96, 136, 192)}
    for name, channels in wanted.items():
        for last in (first.levels, (4, 8, 12, 16, 20)):
            found = supernet.levels(replace(first, network=name, levels=last))
            strides = (4, 8, 16, 16, 32)
            assert found == tuple(map(Level, last, strides, channels))


def test_subnets_give_the_maps_of_their_network(
    supernet: OnceForAllSupernet, space: SearchSpace
) -> None:
    for network in supernet.networks:
        genome = any_genome(space, np.random.default_rng(5))
        backbone = replace(space.decode(genome).backbone, network=network)
        subnet = supernet.get_active_subnet(backbone)
        assert not subnet.training
        assert subnet.name == network
        images = subnet.normalize(pixels(2, 64))
        with torch.inference_mode():
            maps = supernet._networks[network](images, once_for_all_setting(backbone))
            assert all(map(torch.equal, subnet(images), maps))
            subnet.fold(64)
            for ours, like in zip(subnet(images), maps, strict=True):
                scale = float(like.abs().max())
                torch.testing.assert_close(ours, like, rtol=0, atol=1e-5 * scale)


def test_patchcores_setting(supernet: OnceForAllSupernet) -> None:
    backbone = backbone_of(WIDE, (8, 16), (7,) * 4, (6,) * 4)
    assert supernet.patchcore() == backbone
    architecture = patchcore_architecture(supernet, images=10)
    assert architecture == Architecture(Input(224), backbone, Head((3, 3), 28 * 28))
    assert [level.stride for level in supernet.levels(backbone)] == [8, 16]
    # The one value that the authors printed, 1.09, is that of this backbone.
    assert backbone_cost(backbone, 224).flops == 1_088_040_304
    space = published_of(supernet, (28 * 28, None))
    assert space.decode(space.encode(architecture)) == architecture
    alone = OnceForAllSupernet(NARROW, {NARROW: supernet._networks[NARROW]}, provenance="")
    assert alone.patchcore() == replace(backbone, network=NARROW)


def test_largest_backbones(supernet: OnceForAllSupernet) -> None:
    largest = backbone_of(WIDE, (4, 8, 12, 16, 20), (7,) * 5, (6,) * 5)
    assert supernet.largest() == largest
    assert supernet.largest((2, 6)) == backbone_of(WIDE, (2, 6), (7,) * 2, (6,) * 2)
    for backbone in (supernet.largest(), supernet.patchcore()):
        supernet.check(backbone)


def test_architectures_in_words(supernet: OnceForAllSupernet) -> None:
    backbone = backbone_of(WIDE, (2, 7), (7, 3), (6, 4))
    architecture = Architecture(Input(224), backbone, Head((3, 5)))
    text = "224 px, w1.2, kernels 7 3, ratios 6 4, block 2 p3 + block 7 p5, all patches"
    assert architecture.describe(supernet) == text
    assert (
        supernet.describe(backbone) == describe_setting(backbone) == "w1.2, kernels 7 3, ratios 6 4"
    )
    assert supernet.level_names(backbone) == block_names(backbone) == ("block 2", "block 7")
    narrow = Architecture(Input(64), replace(BACKBONE, levels=(6,)), Head((16,), 60))
    text = "64 px, w1.0, kernels 5 3, ratios 4 3, block 6 p16, bank 60"
    assert narrow.describe(supernet) == text


@pytest.mark.parametrize("folds", [False, True])
def test_a_restored_subnet_is_the_same(
    supernet: OnceForAllSupernet, space: SearchSpace, folds: bool
) -> None:
    rng = np.random.default_rng(6)
    for image_size in (64, 75):
        subnet = supernet.get_active_subnet(space.decode(any_genome(space, rng)).backbone)
        if folds:
            subnet.fold(image_size)
            assert subnet.folded
            assert not any("running" in key for key in subnet.state_dict())
        header = json.loads(json.dumps(subnet.to_header()))
        state = {key: value.contiguous() for key, value in subnet.state_dict().items()}
        restored = restore_subnet(header)
        restored.load_state_dict(state)
        assert restored.to_header() == subnet.to_header()
        assert restored.trace(image_size) == subnet.trace(image_size)
        assert not restored.training
        images = pixels(3, image_size)
        with torch.inference_mode():
            for ours, like in zip(
                restored(restored.normalize(images)), subnet(subnet.normalize(images)), strict=True
            ):
                assert torch.equal(ours, like)


def test_a_restored_subnet_must_fit_exactly(supernet: OnceForAllSupernet) -> None:
    subnet = supernet.get_active_subnet(BACKBONE)
    header, state = subnet.to_header(), subnet.state_dict()

    def restore(name: str, value: object) -> None:
        changed = {**header, "recipe": {**header["recipe"], name: value}}
        restore_subnet(changed).load_state_dict(state)

    for name, value in (
        ("network", "ofa_mbv3"),
        ("network", 5),
        ("kernel_sizes", [4] * 20),
        ("levels", [6, 21]),
        ("levels", []),
    ):
        with pytest.raises(InputError) as caught:
            restore(name, value)
        assert "\n" not in str(caught.value)
    for name, value in (
        ("network", WIDE),
        ("kernel_sizes", [7] * 20),
        ("expand_ratios", [6] * 20),
        ("depths", [4] * 5),
    ):
        with pytest.raises(RuntimeError, match="Error"):
            restore(name, value)
    with pytest.raises(KeyError):
        restore_subnet({**header, "recipe": {"network": NARROW}})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": "timm:resnet18"}, "timm:resnet18"),
        ({"network": "ofa_mbv3"}, "of ofa_mbv3, the backbone is"),
        ({"levels": (0, 6)}, "1 to 20"),
        ({"levels": (3, 21)}, "1 to 20"),
        ({"setting": {"kernel_size": (), "expand_ratio": ()}}, r"is \(\), expected 2"),
        ({"setting": {"kernel_size": (3,), "expand_ratio": (3,)}}, r"is \(3,\), expected 2"),
        ({"setting": {"kernel_size": (3,) * 3, "expand_ratio": (3,) * 3}}, r"\), expected 2"),
        (
            {"setting": {"kernel_size": (3, 3), "expand_ratio": (3,)}},
            r"ratio is \(3,\), expected 2",
        ),
        ({"levels": (2, 3)}, r"kernel_size is \(5, 3\), expected 1 .* block 3"),
    ],
)
def test_architectures_that_are_none_of_these(
    supernet: OnceForAllSupernet, change: dict[str, object], named: str
) -> None:
    wrong = replace(BACKBONE, **change)
    for ask in (
        supernet.check,
        supernet.get_active_subnet,
        lambda backbone: supernet.flops(backbone, 64),
    ):
        with pytest.raises(InputError, match=named) as caught:
            ask(wrong)
        assert "\n" not in str(caught.value)


def test_the_published_flops_are_those_of_the_published_networks(
    supernet: OnceForAllSupernet,
) -> None:
    for name in ("timm:resnet18", "ofa_mbv3"):
        with pytest.raises(InputError, match=f"{name} has no published FLOPs"):
            backbone_cost(replace(BACKBONE, network=name), 64)
    narrow, wide = (
        backbone_cost(replace(BACKBONE, network=n), 64).flops for n in NETWORKS.values()
    )
    assert wide > narrow


def test_recalibrated_statistics_are_those_of_the_images(supernet: OnceForAllSupernet) -> None:
    networks = {name: state_copy(network) for name, network in supernet._networks.items()}
    subnet, other = (supernet.get_active_subnet(BACKBONE) for _ in range(2))
    before = state_copy(other)
    batches = [subnet.normalize(pixels(seed, 64, 4)) for seed in (7, 8)]
    subnet.recalibrate(batches)

    weight = before["network.stem.conv.weight"]
    stems = [torch.nn.functional.conv2d(batch, weight, None, 2, 1) for batch in batches]
    state = subnet.state_dict()
    for name, found in (
        ("running_mean", sum(stem.mean((0, 2, 3)) for stem in stems) / 2),
        ("running_var", sum(stem.var((0, 2, 3)) for stem in stems) / 2),
    ):
        torch.testing.assert_close(state[f"network.stem.bn.{name}"], found)

    assert not any(module.training for module in subnet.modules())
    assert not any(parameter.requires_grad for parameter in subnet.parameters())
    norms = [m for m in subnet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    changed = {key for key in before if not torch.equal(state[key], before[key])}
    assert all("running" in key or "num_batches" in key for key in changed)
    assert len([key for key in changed if key.endswith("running_var")]) == len(norms)
    assert_same(other.state_dict(), before)
    assert_same(supernet.get_active_subnet(BACKBONE).state_dict(), before)
    for name, network in supernet._networks.items():
        assert_same(network.state_dict(), networks[name])


def test_every_norm_is_recalibrated(supernet: OnceForAllSupernet) -> None:
    subnet = supernet.get_active_subnet(BACKBONE)
    images = subnet.normalize(pixels(9, 64, 8))
    seen: dict[str, torch.Tensor] = {}
    by_batch = copy.deepcopy(subnet).train()
    for name, module in by_batch.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda module, inputs, name=name: seen.update({name: inputs[0].double()})
            )
    with torch.no_grad():
        by_batch(images)
    subnet.recalibrate([images])
    assert len(seen) == 3 + 3 * 5  # in stem and block 0, and in blocks 1, 2, 3, 5 and 6
    for name, values in seen.items():
        norm = subnet.get_submodule(name)
        for found, wanted in (
            (norm.running_mean, values.mean((0, 2, 3))),
            (norm.running_var, values.var((0, 2, 3))),
        ):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_images_count_alike_in_recalibration(
    supernet: OnceForAllSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subnet, "fold", lambda subnet, image_size: None)  # it ends the statistics
    root = draw_textures(
        tmp_path / "data", seed=2, image_size=64, train=33, test_good=1, per_type=1
    )
    good = sorted((root / "train" / "good").iterdir())
    networks = supernet._networks
    recalibrated = OnceForAllSupernet(
        "ofa_mbv3", networks, provenance="", recalibrate_batch_norm=True
    )
    for count in (1, 16, 17, 33):
        state = cut_subnet(recalibrated, ARCHITECTURE, good[:count]).state_dict()
        subnet = supernet.get_active_subnet(BACKBONE)
        images = subnet.normalize(load_images(good[:count], ARCHITECTURE.input.size))
        with torch.no_grad():
            mean = subnet.network.stem.conv(images).mean((0, 2, 3))
        # Batches of 8 and 9 or of 11 images: one image more or less in a batch.
        found = state["network.stem.bn.running_mean"]
        torch.testing.assert_close(found, mean, rtol=0, atol=0.02 * float(mean.abs().max()))


def test_an_image_that_cannot_be_read_is_named_in_recalibration(
    supernet: OnceForAllSupernet, tmp_path: Path
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    recalibrated = OnceForAllSupernet(
        "ofa_mbv3", supernet._networks, provenance="", recalibrate_batch_norm=True
    )
    with pytest.raises(InputError) as caught:
        cut_subnet(recalibrated, ARCHITECTURE, [path])
    assert str(caught.value).startswith(f"{path}: ")


def test_recalibration_needs_more_than_one_value(
    supernet: OnceForAllSupernet, tmp_path: Path
) -> None:
    root = draw_textures(tmp_path / "data", seed=2, image_size=64, train=1, test_good=1, per_type=1)
    recalibrated = OnceForAllSupernet(
        "ofa_mbv3", supernet._networks, provenance="", recalibrate_batch_norm=True
    )
    backbone = backbone_of(NARROW, (6, 17), (3,) * 5, (3,) * 5)
    deep = Architecture(Input(32), backbone, ARCHITECTURE.head)
    with pytest.raises(InputError, match="batch norm cannot be recalibrated") as caught:
        cut_subnet(recalibrated, deep, sorted((root / "train" / "good").iterdir()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recalibrate", [False, True])
def test_a_loaded_detector_is_the_saved_one(tmp_path: Path, recalibrate: bool) -> None:
    root = draw_textures(
        tmp_path / "data", seed=6, image_size=64, train=22, test_good=1, per_type=1
    )
    good = sorted((root / "train" / "good").iterdir())
    new = sorted((root / "test").rglob("*.png"))
    supernet = load_supernet(NARROW, "random", seed=2, recalibrate_batch_norm=recalibrate)
    detector = Detector.fit(
        good[:17], supernet=supernet, architecture=ARCHITECTURE, calibration=good[17:], seed=3
    )
    subnet = detector.extractor.subnet
    plain = supernet.get_active_subnet(BACKBONE)
    plain.fold(64)
    biases = [each.state_dict()["network.stem.conv.bias"] for each in (plain, subnet)]
    assert torch.equal(*biases) != recalibrate
    assert ("recalibrated" in detector.provenance) == recalibrate

    path = tmp_path / "detector.safetensors"
    detector.save(path)
    loaded = Detector.load(path)
    assert loaded.architecture == ARCHITECTURE
    assert loaded.extractor.subnet.to_header() == subnet.to_header()
    assert loaded.total_flops == detector.total_flops
    assert torch.equal(loaded.predict(new).anomaly_map, detector.predict(new).anomaly_map)
