"""Elastic timm networks as supernets: an expand ratio and a depth for each level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.files import sha256_of
from autopatch.genes import Gene, Settings, is_integer
from autopatch.progress import Progress
from autopatch.supernet.backbone import Backbone, Level, Segment
from autopatch.supernet.elastic_network import (
    RATIOS,
    ElasticSetting,
    ElasticTimmNetwork,
    check_setting,
    section_layers,
    static_network,
)
from autopatch.supernet.family import Family, unknown_space
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.supernet import Layers, Supernet, single_map
from autopatch.supernet.weights import LoadOptions, find_source, load_into

ELASTIC = "elastic:"
AUTOPATCH_S = "autopatch_s"
"""Name of the supernet in this package, an elastic MobileNetV2; docs/models.md is its model
card."""

_AUTOPATCH_S_MODEL = "elastic:mobilenetv2_100"
_AUTOPATCH_S_FILE = Path(__file__).with_name("autopatch_s.safetensors")
_AUTOPATCH_S_SHA256 = "c735316968081f8da1c947c993cbf50b413d1d6166e4696ef4a237c442757783"


class ElasticSupernet(Supernet):
    """An elastic network, made by `load_supernet`. Each choice of ratios, depths and levels is a
    subnet.

    The setting of a backbone has an "expand_ratio" and a "depth" for each level up to the deepest
    selected one.

    Args:
        name: Name of the space.
        network: The weights.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
        provenance: Origin of the weights, on one line.
        random_features: Whether the weights are random.
    """

    def __init__(
        self,
        name: str,
        network: ElasticTimmNetwork,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
        random_features: bool,
    ) -> None:
        super().__init__(
            name, mean=mean, std=std, provenance=provenance, random_features=random_features
        )
        self.network = network

    def genes(self) -> list[Gene]:
        """Three genes for each level: expand ratio and depth of its stages, and whether it is
        used."""
        genes: list[Gene] = []
        uses = [f"use_stride{section.level.stride}" for section in self.network.sections]
        for number, section in enumerate(self.network.sections):
            slot, name = section.level.index, f"stride{section.level.stride}"
            deeper = tuple(uses[number:])
            genes += [
                Gene(f"expand_ratio_{name}", RATIOS, "backbone", "expand_ratio", slot, deeper),
                Gene(f"depth_{name}", section.depths, "backbone", "depth", slot, deeper),
                Gene(
                    uses[number],
                    (False, True),
                    "backbone",
                    "level",
                    slot,
                    per_level=f"{{}}_{name}",
                ),
            ]
        return genes

    def all_levels(self, network: str) -> tuple[Level, ...]:
        """The levels at the ends of the network's sections."""
        return tuple(section.level for section in self.network.sections)

    def largest(self, levels: Sequence[int] | None = None) -> Backbone:
        """The largest subnet with all levels, or with the given ones."""
        every = [section.level.index for section in self.network.sections]
        chosen = tuple(every if levels is None else levels)
        run = sum(index <= chosen[-1] for index in every)
        largest = self.network.largest_setting
        return Backbone(
            self.name,
            chosen,
            Settings({"expand_ratio": largest.expand_ratios[:run], "depth": largest.depths[:run]}),
        )

    def check(self, backbone: Backbone) -> None:
        """Raises InputError unless the backbone is a subnet of this network."""
        self._setting(backbone)

    def get_active_subnet(self, backbone: Backbone) -> Subnet:
        """Extracts the static module of a backbone, with its own copy of the weights.

        Raises:
            InputError: The backbone belongs to another supernet, or its setting is invalid.
        """
        setting = self._setting(backbone)
        recipe = {
            "network": self.name,
            "timm_model": self.network.timm_model,
            "timm_kwargs": self.network.timm_kwargs,
            **{key: list(value) for key, value in asdict(setting).items()},
        }
        return Subnet(
            self.network.get_active_subnet(setting),
            recipe,
            self.levels(backbone),
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )

    def segments(self, backbone: Backbone) -> tuple[Segment, ...]:
        """One segment for each section: its layers depend on its own ratio and depth alone."""
        setting = self._setting(backbone)
        return tuple(
            Segment((section.level.index,), (ratio, depth))
            for section, ratio, depth in zip(
                self.network.sections, setting.expand_ratios, setting.depths, strict=False
            )
        )

    def split(self, backbone: Backbone, subnet: Subnet) -> Sequence[Layers]:
        """The layers of each section."""
        return list(map(single_map, section_layers(subnet.network, self.network.sections)))

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The tensors of the elastic network."""
        return self.network.state_dict()

    def describe(self, backbone: Backbone) -> str:
        """A short description such as "ratios 4 3, depths 2 3"."""
        setting = self._setting(backbone)
        ratios, depths = setting.expand_ratios, setting.depths
        return f"ratios {' '.join(map(str, ratios))}, depths {' '.join(map(str, depths))}"

    def _setting(self, backbone: Backbone) -> ElasticSetting:
        self.check_network(backbone)
        names = ("expand_ratio", "depth")
        if set(backbone.setting) != set(names):
            raise InputError(
                f"{self.name}: the setting has {sorted(backbone.setting)}, expected {list(names)}"
            )
        values = [backbone.setting[name] for name in names]
        if not all(isinstance(value, tuple) and all(map(is_integer, value)) for value in values):
            raise InputError(f"{self.name}: the setting is {backbone.setting}, expected integers")
        ratios, depths = values
        setting = ElasticSetting(ratios, depths, backbone.levels)  # type: ignore[arg-type]
        check_setting(self.network.sections, setting)
        return setting


class ElasticFamily(Family):
    """Elastic timm networks, and autopatch_s."""

    usage = f"{AUTOPATCH_S} or {ELASTIC}<model name of timm>"

    def load(
        self, space: str, weights: str, options: LoadOptions, progress: Progress | None
    ) -> ElasticSupernet:
        """Loads an elastic network and its weights, see `load_supernet`.

        Args:
            space: "autopatch_s" or "elastic:<model of timm>".
            weights: A .safetensors file from training/distill.py, "random", or, for autopatch_s,
                "auto" for the weights in this package.
            options: `timm_kwargs`, normalization and seed.
            progress: Never called.

        Raises:
            InputError: The weights are missing or do not fit; see also `find_source`.
        """
        if space != AUTOPATCH_S and not space.startswith(ELASTIC):
            raise unknown_space(space)
        options.require(space, "timm_kwargs")
        packaged = weights == "auto" and space == AUTOPATCH_S
        if weights == "pretrained" or (weights == "auto" and not packaged):
            own = "'auto', " if space == AUTOPATCH_S else ""
            raise InputError(
                f"{space} has no weights '{weights}': give `weights`: {own}FILE.safetensors "
                "or 'random'"
            )
        if packaged:
            _check_packaged_file()
            weights = str(_AUTOPATCH_S_FILE)
        model = _AUTOPATCH_S_MODEL if space == AUTOPATCH_S else space
        source = find_source(model, weights, options)
        network = ElasticTimmNetwork(source.name, source.kwargs, seed=options.seed)
        if source.file is not None:
            if not any(name.startswith("largest.") for name in source.file.state):
                raise InputError(
                    f"{source.file.path}: holds no elastic network, expected a file that "
                    "training/distill.py wrote; for the plain network give "
                    f"`space` timm:{source.name}"
                )
            load_into(network, source.file)
        return ElasticSupernet(
            space,
            network.to(memory_format=torch.channels_last).requires_grad_(False),
            mean=source.mean,
            std=source.std,
            provenance=f"weights of {space} in this package" if packaged else source.provenance,
            random_features=source.is_random,
        )

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """timm's network with blocks removed or narrowed, and random weights."""
        values = {key: tuple(recipe[key]) for key in ElasticSetting.__dataclass_fields__}
        return static_network(recipe["timm_model"], recipe["timm_kwargs"], ElasticSetting(**values))


FAMILY = ElasticFamily()


def _check_packaged_file() -> None:
    found = sha256_of(_AUTOPATCH_S_FILE) if _AUTOPATCH_S_FILE.is_file() else None
    if found != _AUTOPATCH_S_SHA256:
        raise InputError(
            f"{_AUTOPATCH_S_FILE}: {'is missing' if found is None else 'is damaged'}; reinstall "
            "autopatch"
        )
