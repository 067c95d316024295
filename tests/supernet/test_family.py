"""Families of backbones by name, and one that is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from autopatch.detector import Head
from autopatch.errors import InputError
from autopatch.genes import Gene
from autopatch.progress import Progress
from autopatch.search import compose_space
from autopatch.supernet import (
    FAMILIES,
    Backbone,
    Level,
    LoadOptions,
    Preset,
    Subnet,
    Supernet,
    load_supernet,
    restore_subnet,
    weights_files,
    weights_paths,
)

USAGES = (
    "autopatch_s or elastic:<model name of timm>",
    "timm:<model name>",
    "ofa_mbv3, ofa_mbv3_d234_e346_k357_w1.0, ofa_mbv3_d234_e346_k357_w1.2",
)


class ToyNetwork(nn.Module):
    """Maps of stride 8 and 16."""

    def __init__(self, channels: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU()
            )
            for inputs, stride in ((3, 8), (channels, 2))[: self.levels[-1] + 1]
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, stage in enumerate(self.stages):
            images = stage(images)
            if index in self.levels:
                maps.append(images)
        return maps


class ToySupernet(Supernet):
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(),
        "small": Preset(choices={"image_size": (64,)}, own=("image_size",)),
    }

    def __init__(self, name: str, channels: int, options: LoadOptions) -> None:
        super().__init__(
            name,
            mean=options.mean or (0, 0, 0),
            std=options.std or (1, 1, 1),
            provenance="a toy",
            random_features=True,
        )
        self.channels = channels
        self.seed = options.seed

    def genes(self) -> list[Gene]:
        return [
            Gene(
                f"use_{index}", (False, True), "backbone", "level", index, per_level=f"{{}}_{index}"
            )
            for index in (0, 1)
        ]

    def all_levels(self, network: str) -> tuple[Level, ...]:
        return Level(0, 8, self.channels), Level(1, 16, self.channels)

    def largest(self, levels: Sequence[int] | None = None) -> Backbone:
        return Backbone(self.name, (0, 1) if levels is None else tuple(levels))

    def check(self, backbone: Backbone) -> None:
        self.levels(backbone)

    def get_active_subnet(self, backbone: Backbone) -> Subnet:
        recipe = {"network": self.name, "channels": self.channels, "levels": list(backbone.levels)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = FAMILIES["toy"].build(recipe)
        return Subnet(
            network,
            recipe,
            self.levels(backbone),
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )


class ToyFamily:
    usage = "toy:<channels>"

    def __init__(self) -> None:
        self.weights: list[str] = []

    def load(
        self, space: str, weights: str, options: LoadOptions, progress: Progress | None
    ) -> ToySupernet:
        self.weights.append(weights)
        return ToySupernet(space, int(space.partition(":")[2]), options)

    def weights_files(self, space: str, weights: str) -> list[Path]:
        return [path / "toy.bin" for path in weights_paths(weights)]

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        return ToyNetwork(recipe["channels"], recipe["levels"])


@pytest.fixture
def toy() -> Iterator[ToyFamily]:
    family = ToyFamily()
    FAMILIES.register("toy", family)
    yield family
    FAMILIES.unregister("toy")


def refused(space: str, weights: str, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        load_supernet(space, weights, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_registered_family_is_loaded_by_name(toy: ToyFamily, tmp_path: Path) -> None:
    supernet = load_supernet("toy:5", tmp_path, mean=(1, 2, 3), seed=7)
    assert isinstance(supernet, ToySupernet)
    assert toy.weights == [str(tmp_path)]
    assert (supernet.name, supernet.mean, supernet.seed) == ("toy:5", (1, 2, 3), 7)
    assert supernet.weights_sha256 != load_supernet("toy:5", "random", seed=4).weights_sha256
    assert supernet.patchcore() == supernet.largest()
    assert supernet.shared(supernet.largest((1,))) == supernet.largest((1,))
    assert supernet.level_names(supernet.largest()) == ("stride 8", "stride 16")
    assert supernet.describe(supernet.largest()) == ""
    assert supernet.grids("toy:5", 64) == {0: (8, 8), 1: (4, 4)}
    assert supernet.grid(supernet.largest((1,)), 64) == (4, 4)
    first = 2 * 8 * 8 * 5 * 27
    assert supernet.flops(supernet.largest((0,)), 64) == first
    assert supernet.flops(supernet.largest((0, 1)), 64) == first + 2 * 4 * 4 * 5 * 45
    assert supernet.flops(supernet.largest((1,)), 64) == first + 2 * 4 * 4 * 5 * 45
    with pytest.raises(InputError, match="map of stride 16 is 1 wide"):
        supernet.require_image_size(32 - 16)
    assert weights_files("toy:5", str(tmp_path)) == [tmp_path / "toy.bin"]
    assert weights_files("toy:5", "random") == []
    with pytest.raises(InputError, match="'toy' is registered already"):
        FAMILIES.register("toy", toy)


def test_a_registered_family_is_searched(toy: ToyFamily) -> None:
    supernet = load_supernet("toy:5", "random")
    space = compose_space(supernet, choices=Head.off_choices())
    assert [gene.name for gene in space.genes] == [
        "image_size",
        "bank_size",
        "use_0",
        "patch_size_0",
        "use_1",
        "patch_size_1",
    ]
    small = compose_space(supernet, preset=supernet.presets["small"])
    assert small.choices("input", "image_size") == [64]
    with pytest.raises(
        InputError, match="choices of `image_size` are given, but the preset has its own"
    ):
        compose_space(supernet, preset=supernet.presets["small"], choices={"image_size": (64, 96)})


def test_a_subnet_is_folded_once_and_restored(toy: ToyFamily) -> None:
    supernet = load_supernet("toy:5", "random", seed=3)
    subnet = supernet.get_active_subnet(supernet.largest())
    pixels = torch.randint(
        0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    images = subnet.normalize(pixels)
    subnet.recalibrate([images])
    plain = subnet(images)
    assert any("running_mean" in key for key in subnet.state_dict())
    assert subnet.folded == ()

    subnet.fold(64)
    assert subnet.folded == (("stages.0.0", "stages.0.1"), ("stages.1.0", "stages.1.1"))
    state = subnet.state_dict()
    assert set(state) == {"pixel_mean", "pixel_std"} | {
        f"network.stages.{n}.0.{kind}" for n in (0, 1) for kind in ("weight", "bias")
    }
    assert not any(isinstance(part, nn.BatchNorm2d) for part in subnet.modules())
    assert not any(parameter.requires_grad for parameter in subnet.parameters())
    for found, expected in zip(subnet(images), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(ValueError, match="folded subnet cannot be recalibrated"):
        subnet.recalibrate([images])

    header = json.loads(json.dumps(subnet.to_header()))
    subnet.fold(64)  # there is nothing left to fold, and nothing is forgotten
    assert subnet.to_header() == header == json.loads(json.dumps(subnet.to_header()))
    restored = restore_subnet(header)
    assert restored.to_header() == subnet.to_header()
    restored.load_state_dict(state)
    for found, expected in zip(restored(images), subnet(images), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("space", ["ofa_mbv4", "", "mobilenetv2_050", "toys:5"])
def test_an_unknown_space_lists_how_spaces_are_named(toy: ToyFamily, space: str) -> None:
    for usage in (*USAGES, toy.usage):
        assert usage in refused(space, "random")
    assert refused(space, "random").startswith(f"search space '{space}' is unknown, expected ")
    with pytest.raises(InputError, match="is unknown"):
        weights_files(space, "random")
    with pytest.raises(InputError, match="is unknown"):
        restore_subnet({"recipe": {"network": space}})


@pytest.mark.parametrize(
    "space", ["timm", "elastic", "autopatch_s:mobilenetv2_050", "ofa_mbv3:mobilenetv2_050"]
)
def test_a_family_takes_only_its_own_spaces(space: str) -> None:
    assert refused(space, "random").startswith(f"search space '{space}' is unknown, expected ")


@pytest.mark.parametrize(
    ("space", "weights", "options", "named"),
    [
        ("timm:mobilenetv2_050", "auto", {}, ("no weights of its own", "pretrained")),
        *(
            (
                space,
                "random",
                {"recalibrate_batch_norm": True},
                (space, "`recalibrate_batch_norm` is given"),
            )
            for space in ("timm:mobilenetv2_050", "elastic:mobilenetv2_050", "autopatch_s")
        ),
        *(
            (space, "random", {"mean": (0.5, 0.5)}, ("`mean` is (0.5, 0.5), expected three",))
            for space in ("timm:mobilenetv2_050", "elastic:mobilenetv2_050", "ofa_mbv3")
        ),
        *(
            (space, "random", {"std": (1, 0, 1)}, ("`std` is (1, 0, 1), expected three positive",))
            for space in ("timm:mobilenetv2_050", "elastic:mobilenetv2_050", "ofa_mbv3")
        ),
        *(
            (space, "random", {"timm_kwargs": {"checkpoint_path": "x"}}, ("checkpoint_path",))
            for space in ("timm:mobilenetv2_050", "elastic:mobilenetv2_050")
        ),
        *(
            (space, "random", {"timm_kwargs": {"no_such": 1}}, ("no_such",))
            for space in ("timm:mobilenetv2_050", "elastic:mobilenetv2_050")
        ),
        ("ofa_mbv3", "random", {"timm_kwargs": {}}, ("`timm_kwargs` is given", "ofa_mbv3")),
        ("elastic:mobilenetv2_050", "auto", {}, ("has no weights 'auto'",)),
        ("autopatch_s", "pretrained", {}, ("has no weights 'pretrained'", "'auto'")),
    ],
)
def test_options_that_do_not_belong_to_a_space(
    space: str, weights: str, options: dict[str, object], named: tuple[str, ...]
) -> None:
    message = refused(space, weights, **options)
    for part in named:
        assert part in message


def test_the_file_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.touch()
    for space in ("timm:resnet18", "elastic:mobilenetv2_050", "autopatch_s"):
        assert weights_files(space, str(file)) == [file]
        for word in ("auto", "pretrained", "random"):
            assert weights_files(space, word) == []
        for absent in (str(tmp_path / "absent"), ""):
            with pytest.raises(InputError, match="no such file or folder, expected weights"):
                weights_files(space, absent)


def test_timm_has_an_upper_bound() -> None:
    """The code uses blocks and feature extractors that timm may change."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith('"timm')]
    assert "<" in line
