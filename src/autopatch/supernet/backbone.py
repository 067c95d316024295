"""Backbones: modules that give the feature maps of chosen levels, made from a recipe in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from autopatch.errors import InputError
from autopatch.supernet.elastic import StaticNetwork, SubnetSetting
from autopatch.supernet.elastic_timm import ElasticSetting, static_network
from autopatch.supernet.timm_features import TIMM, features_model

ONCE_FOR_ALL = {1.0: "ofa_mbv3_d234_e346_k357_w1.0", 1.2: "ofa_mbv3_d234_e346_k357_w1.2"}
"""Published names of the Once-for-All MobileNetV3 supernets, by width."""


def build_backbone(recipe: Mapping[str, Any]) -> nn.Module:
    """A backbone without weights, from the recipe of a `Subnet`.

    Raises:
        InputError: The recipe names no known supernet, or the backbone cannot be built.
        KeyError, TypeError: It is no recipe.
    """
    name = str(recipe["supernet"])
    if name.startswith(TIMM):
        return features_model(
            name.removeprefix(TIMM), recipe["timm_kwargs"], out_indices=recipe["levels"]
        )
    for width, net_id in ONCE_FOR_ALL.items():
        if name == net_id:
            values = {key: tuple(recipe[key]) for key in SubnetSetting.__dataclass_fields__}
            return StaticNetwork(width, SubnetSetting(**values))
    if "timm_model" in recipe:
        values = {key: tuple(recipe[key]) for key in ElasticSetting.__dataclass_fields__}
        return static_network(recipe["timm_model"], recipe["timm_kwargs"], ElasticSetting(**values))
    raise InputError(f"supernet '{name}' is unknown")
