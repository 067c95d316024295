"""Networks of timm made elastic, against timm's own."""

from itertools import cycle, product

import numpy as np
import pytest
import timm
import torch

from autopatch.detector import Architecture, patchcore_architecture
from autopatch.errors import InputError
from autopatch.search import compose_space
from autopatch.supernet import (
    Backbone,
    ElasticSetting,
    ElasticTimmNetwork,
    load_supernet,
    restore_subnet,
)
from autopatch.supernet.elastic_network import section_layers, sections, static_network

MODELS = {"mobilenetv2_100": {"pad_type": "same"}, "tf_mobilenetv3_small_075": {}}


@pytest.fixture(scope="module", params=MODELS)
def network(request):
    """Random weights, also for the parameters that only narrow blocks have, so that a mix-up would
    show."""
    network = ElasticTimmNetwork(request.param, MODELS[request.param], seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in network.largest.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for values in network.own.parameters():
            values.add_(0.1 * torch.randn(values.shape, generator=generator))
    return network


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def settings(network):
    """Corners of what can be chosen, and something in between, cut after different levels: every
    number of sections with the least and the greatest depth, each with another ratio in turn."""
    levels = [section.level.index for section in network.sections]
    corners = product(range(1, len(levels) + 1), (0, -1))
    for (run, depth), ratio in zip(corners, cycle((6, 4, 3)), strict=False):
        depths = tuple(section.depths[depth] for section in network.sections[:run])
        yield ElasticSetting((ratio,) * run, depths, tuple(levels[max(run - 2, 0) : run]))
    mixed = [
        section.depths[number % len(section.depths)]
        for number, section in enumerate(network.sections)
    ]
    yield ElasticSetting((4, 6, 3, 4)[: len(levels)], tuple(mixed), tuple(levels))


def equal(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_the_largest_is_timms(network, images):
    model = timm.create_model(network.timm_model, features_only=True, **network.timm_kwargs).eval()
    model.load_state_dict(network.largest.state_dict(), strict=False)
    expected = [
        m
        for m, reduction in zip(model(images), model.feature_info.reduction(), strict=True)
        if reduction >= 4
    ]
    assert equal(network(images, network.largest_setting), expected)
    assert equal(network.get_active_subnet(network.largest_setting)(images), expected)


def test_a_subnet_is_what_the_elastic_network_runs(network, images):
    for setting in settings(network):
        subnet = network.get_active_subnet(setting)
        expected = network(images, setting)
        assert equal(subnet(images), expected), setting
        rebuilt = static_network(network.timm_model, network.timm_kwargs, setting).eval()
        rebuilt.load_state_dict(subnet.state_dict())
        assert equal(rebuilt(images), expected), setting
        assert not any(p.requires_grad for p in subnet.parameters())
        last = network.sections[len(setting.depths) - 1]  # nothing runs behind the last level
        assert len(subnet.blocks) == last.stages[-1] + 1


def test_narrow_blocks_by_hand():
    """A block of ratio 3 is the leading half of its expansion plus the parameters of this ratio. It
    has another projection if blocks after it are skipped."""
    network = ElasticTimmNetwork("mobilenetv2_100", MODELS["mobilenetv2_100"], seed=4)
    with torch.no_grad():
        for key, factor in (("3", 1.25), ("3_end", 1.5)):
            for values in network.own[key].parameters():
                values.mul_(factor)
    x = torch.randn(1, 24, 9, 9, generator=torch.Generator().manual_seed(5))
    whole = network.largest.blocks[2][0]
    F = torch.nn.functional
    y = F.relu6(1.25 * F.conv2d(x, whole.conv_pw.weight[:72]) / (1 + 1e-5) ** 0.5)
    y = F.pad(y, (1, 1, 1, 1))
    y = F.conv2d(y, 1.25 * whole.conv_dw.weight[:72], stride=2, groups=72)
    y = F.relu6(1.25 * y / (1 + 1e-5) ** 0.5)
    for depth, factor in ((3, 1.25), (1, 1.5)):
        subnet = network.get_active_subnet(ElasticSetting((6, 3), (2, depth), (2,)))
        expected = factor**2 * F.conv2d(y, whole.conv_pwl.weight[:, :72]) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(subnet.blocks[2][0](x), expected)


@pytest.mark.parametrize("ratio", [6, 4, 3])
def test_a_block_has_another_projection_where_others_are_left_out(network, ratio):
    deep = network.sections[1]
    for depth in deep.depths:
        subnet = network.get_active_subnet(
            ElasticSetting((6, ratio), (network.sections[0].depths[-1], depth), (2,))
        )
        for stage in deep.stages:
            whole = network.largest.blocks[stage]
            for number, block in enumerate(subnet.blocks[stage]):
                ends = number + 1 == len(subnet.blocks[stage]) < len(whole)
                key = f"{ratio}_end" if ends else str(ratio)
                found = block.conv_pwl.weight
                expected = whole[number].conv_pwl.weight
                if key in network.own:
                    expected = network.own[key][f"blocks/{stage}/{number}/conv_pwl/weight"]
                assert torch.equal(found, expected[:, : found.shape[1]])


def test_gradients_reach_the_weights_that_ran(images):
    network = ElasticTimmNetwork("mobilenetv2_100", MODELS["mobilenetv2_100"])
    sum(m.sum() for m in network(images, ElasticSetting((4, 3), (2, 1), (1, 2)))).backward()
    first = network.largest.blocks[2][0].conv_pw.weight.grad
    assert (first[:72].flatten(1).norm(dim=1) > 0).any()
    assert (first[72:] == 0).all()
    assert network.largest.blocks[2][1].conv_pw.weight.grad is None
    assert network.own["4"]["blocks/1/0/bn1/weight"].grad is not None
    assert network.own["4"]["blocks/2/0/bn1/weight"].grad is None
    assert network.own["3_end"]["blocks/2/0/conv_pwl/weight"].grad is not None
    assert network.own["3"]["blocks/2/0/conv_pwl/weight"].grad is None
    assert "blocks/1/1/bn3/bias" not in network.own["3_end"]  # the last of its stage


def test_statistics_stay(images):
    network = ElasticTimmNetwork("mobilenetv2_100", MODELS["mobilenetv2_100"]).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(images, network.largest_setting)
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())


def test_sections():
    found = sections("mobilenetv2_100", MODELS["mobilenetv2_100"])
    assert [(s.level.stride, s.stages, s.depths) for s in found] == [
        (4, (1,), (2,)),
        (8, (2,), (1, 2, 3)),
        (16, (3, 4), (2, 3, 4)),
        (32, (5, 6), (1, 2, 3)),
    ]
    with pytest.raises(InputError, match="no inverted-residual blocks"):
        sections("resnet18", {})
    with pytest.raises(InputError, match="blocks of MixedConv2d, which cannot be narrowed"):
        sections("mixnet_s", {})
    with pytest.raises(InputError, match=r"'expansion'.*taken within blocks, expected those at"):
        sections("mobilenetv2_100", {"feature_location": "expansion"})


def test_layers_of_sections_are_a_chain(network, images):
    for setting in settings(network):
        subnet = network.get_active_subnet(setting)
        levels = [section.level.index for section in network.sections]
        maps = {}
        last = images
        for level, layers in zip(levels, section_layers(subnet, network.sections), strict=False):
            maps[level] = last = layers(last)
        assert list(maps) == levels[: len(setting.depths)]
        assert equal([maps[level] for level in setting.levels], subnet(images))


@pytest.mark.parametrize(
    ("ratios", "depths", "levels", "reason"),
    [
        ((6, 6), (2, 3), (3,), "2 expand ratios, expected 3"),
        ((6,), (2, 2), (1,), "2 depths, expected 1"),
        ((5,), (2,), (1,), "expand ratio is 5"),
        ((6,), (3,), (1,), r"depth is 3 at level 1, expected one of \(2,\)"),
        ((6,), (1,), (0,), "level is 0, expected one of 1, 2, 3, 4"),
    ],
)
def test_settings_that_are_none(ratios, depths, levels, reason):
    network = ElasticTimmNetwork("mobilenetv2_100", MODELS["mobilenetv2_100"])
    with pytest.raises(InputError, match=reason):
        network.get_active_subnet(ElasticSetting(ratios, depths, levels))


@pytest.fixture(scope="module")
def supernet():
    return load_supernet("elastic:mobilenetv2_100", "random", timm_kwargs={"pad_type": "same"})


def test_every_genome_is_an_architecture(supernet):
    space = compose_space(supernet, choices={"image_size": (64, 96), "bank_size": (10, None)})
    rng = np.random.default_rng(0)
    for _ in range(50):
        genome = space.sample(rng)
        architecture = space.decode(genome)
        assert space.encode(architecture) == genome
        assert Architecture.from_json(architecture.to_json()) == architecture
        size, backbone = architecture.input.size, architecture.backbone
        supernet.check(backbone)
        assert supernet.grid(backbone, size)[0] == size // 4 // 2 ** (backbone.levels[0] - 1)
        assert f"{size} px, ratios " in architecture.describe(supernet)
        assert supernet.shared(backbone) == backbone
    subnet = supernet.get_active_subnet(backbone)
    restored = restore_subnet(subnet.to_header())
    restored.load_state_dict(subnet.state_dict())
    pixels = torch.randint(
        0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(6)
    )
    assert equal(restored(restored.normalize(pixels)), subnet(subnet.normalize(pixels)))


def test_flops_fall_with_ratio_and_depth(supernet):
    def flops(ratios, depths):
        setting = {"expand_ratio": ratios, "depth": depths}
        return supernet.flops(Backbone(supernet.name, (2,), setting), 64)

    assert flops((6, 6), (2, 3)) > flops((6, 4), (2, 3)) > flops((6, 3), (2, 3))
    assert flops((6, 6), (2, 3)) > flops((6, 6), (2, 2)) > flops((6, 6), (2, 1))


def test_patchcore_is_the_largest(supernet):
    backbone = supernet.patchcore()
    assert backbone.levels == (2, 3)
    assert backbone.setting == {"expand_ratio": (6, 6, 6), "depth": (2, 3, 4)}
    assert supernet.grid(backbone, 224) == (28, 28)
    architecture = patchcore_architecture(supernet, images=10)
    assert architecture.backbone == backbone
    assert (architecture.input.size, architecture.head.patch_sizes) == (224, (3, 3))
    assert architecture.head.bank_size == 10 * 28 * 28 // 10


def test_largest_backbones(supernet):
    largest = supernet.largest()
    assert largest.levels == (1, 2, 3, 4)
    assert largest.setting == {"expand_ratio": (6,) * 4, "depth": (2, 3, 4, 3)}
    for backbone in largest, supernet.patchcore():
        supernet.get_active_subnet(backbone)
    shallow = supernet.largest((2,))
    assert shallow.setting == {"expand_ratio": (6, 6), "depth": (2, 3)}
    supernet.check(shallow)


def test_what_an_elastic_network_refuses(supernet):
    setting = {"expand_ratio": (6,), "depth": (2,)}
    for changed, named in (
        ({**setting, "kernel_size": (3,)}, r"\['depth', 'expand_ratio', 'kernel_size'\], expected"),
        ({"depth": (2,)}, r"\['depth'\], expected \['expand_ratio', 'depth'\]"),
        ({}, r"\[\], expected"),
        ({**setting, "depth": 2}, "expected integers"),
        ({**setting, "depth": (2.0,)}, "expected integers"),
        ({**setting, "expand_ratio": (True,)}, "expected integers"),
        ({**setting, "expand_ratio": (5,)}, "expand ratio is 5"),
        ({**setting, "depth": (2, 2)}, "2 depths, expected 1"),
    ):
        backbone = Backbone(supernet.name, (1,), changed)
        for ask in (
            supernet.check,
            supernet.get_active_subnet,
            lambda backbone: supernet.flops(backbone, 64),
        ):
            with pytest.raises(InputError, match=named):
                ask(backbone)
    with pytest.raises(InputError, match="the backbone is elastic:mobilenetv2_100"):
        supernet.flops(Backbone("elastic:x", (1,)), 64)
    with pytest.raises(InputError, match="level is 0"):
        supernet.flops(Backbone(supernet.name, (0, 1), setting), 64)
    with pytest.raises(InputError, match="map of stride 32 is 1 wide"):
        compose_space(supernet, choices={"image_size": (32,)})
    with pytest.raises(InputError, match="`recalibrate_batch_norm` is given"):
        load_supernet("elastic:mobilenetv2_100", "random", recalibrate_batch_norm=True)
    with pytest.raises(InputError, match="has no weights 'pretrained'"):
        load_supernet("elastic:mobilenetv2_100", "pretrained")
    with pytest.raises(InputError, match="timm has no model 'mobilenetv2_10'"):
        load_supernet("elastic:mobilenetv2_10", "random")


def test_weights_of_a_plain_network_are_refused(write_weights):
    with pytest.raises(InputError, match=r"no elastic network.* give `space` timm:mobilenetv2_050"):
        load_supernet("elastic:mobilenetv2_050", str(write_weights()))
