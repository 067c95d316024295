"""Families of backbones, and supernets by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.progress import Progress
from autopatch.registry import Registry
from autopatch.supernet.backbone import Level
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.supernet import Supernet
from autopatch.supernet.weights import LoadOptions, check_channels, weights_paths

DEFAULT_SPACE = "autopatch_s"


class Family(Protocol):
    """A kind of backbones.

    Attributes:
        usage: How its spaces are named, for messages, such as "timm:<model name>".
    """

    usage: str

    def load(
        self, space: str, weights: str, options: LoadOptions, progress: Progress | None
    ) -> Supernet:
        """A supernet with its weights; see `load_supernet`."""
        ...

    def weights_files(self, space: str, weights: str) -> list[Path]:
        """The files that `load` reads; none for a word such as "random". By default the one file
        that `weights` names.

        Raises:
            InputError: There is no such file.
        """
        return weights_paths(weights)

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """A static network without weights, from the recipe of a `Subnet`.

        Raises:
            InputError: The network cannot be built.
            KeyError, TypeError: The recipe is malformed.
        """
        ...


_TIMM = "autopatch.supernet.timm_supernet:FAMILY"
_ELASTIC = "autopatch.supernet.elastic_supernet:FAMILY"
_ONCE_FOR_ALL = "autopatch.published.once_for_all:FAMILY"

FAMILIES: Registry[Family] = Registry(
    "search space",
    {
        "autopatch_s": _ELASTIC,
        "timm": _TIMM,
        "elastic": _ELASTIC,
        "ofa_mbv3": _ONCE_FOR_ALL,
        "ofa_mbv3_d234_e346_k357_w1.0": _ONCE_FOR_ALL,
        "ofa_mbv3_d234_e346_k357_w1.2": _ONCE_FOR_ALL,
    },
)
"""Families by the name of their spaces, or the part of it before the colon."""


def find_family(space: str) -> Family:
    """The family of a space or a network.

    Raises:
        InputError: It is unknown.
    """
    kind = space.partition(":")[0]
    if kind not in FAMILIES:
        raise unknown_space(space)
    return FAMILIES[kind]


def unknown_space(space: str) -> InputError:
    """The error for a space that no family has. It lists how spaces are named."""
    usages = dict.fromkeys(FAMILIES[name].usage for name in FAMILIES)
    return InputError(f"search space '{space}' is unknown, expected {' or '.join(usages)}")


def load_supernet(
    space: str = DEFAULT_SPACE,
    weights: StrPath = "auto",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Supernet:
    """A supernet with its weights.

    Args:
        space: "autopatch_s", "timm:<model name>", "elastic:<model name of timm>", "ofa_mbv3", the
            name of one of its two networks, or that of a registered family.
        weights: "random", or

            - for autopatch_s, "auto" for the weights in this package, or a .safetensors file;
            - for an elastic network, a .safetensors file;
            - for timm, a .safetensors file, or "pretrained" for the weights of timm's hub;
            - for Once-for-All, "auto" for the published weights, which are downloaded once, or a
              folder of them; for a single network also its file.
        mean: Channel means of the input, for pixels in [0, 1]; by default those of the weights.
        std: Channel deviations.
        seed: Seed of random weights.
        progress: Called during a download.
        **options: Options of the family. timm and elastic networks take `timm_kwargs`, arguments
            of `timm.create_model`. Once-for-All takes `recalibrate_batch_norm`: whether the batch
            norm statistics of subnets are computed anew from the good images.

    Raises:
        InputError: The space is unknown, the weights are not available or do not fit, or the space
            does not take an argument.
    """
    given = LoadOptions(mean=mean, std=std, seed=seed, own=options)
    return find_family(space).load(space, os.fspath(weights), given, progress)


def weights_files(space: str, weights: str) -> list[Path]:
    """The files that `load_supernet` reads; none for a word such as "random" or "auto".

    Raises:
        InputError: The space is unknown, there is no such file or folder, or the folder lacks a
            file.
    """
    return find_family(space).weights_files(space, weights)


def build_network(recipe: Mapping[str, Any]) -> nn.Module:
    """A static network without weights, from the recipe of a `Subnet`.

    Raises:
        InputError: The recipe names no known network, or the network cannot be built.
        KeyError, TypeError: The recipe is malformed.
    """
    return find_family(str(recipe["network"])).build(recipe)


def restore_subnet(header: Mapping[str, Any]) -> Subnet:
    """A subnet rebuilt from its `to_header()`. Its weights are random until `load_state_dict`.

    Raises:
        InputError: The network cannot be built.
        KeyError, TypeError, ValueError: The header is malformed.
    """
    subnet = Subnet(
        build_network(header["recipe"]),
        header["recipe"],
        [Level(*level) for level in header["levels"]],
        mean=check_channels("mean", header["mean"]),
        std=check_channels("std", header["std"]),
        provenance=header["provenance"],
    )
    subnet.weights_sha256 = str(header["weights_sha256"])
    subnet.fold_pairs([(before, behind) for before, behind in header["folded"]])
    return subnet.to(memory_format=torch.channels_last)
