"""Backbone families, and supernets by name."""

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
    """A backbone family: loads supernets and builds their networks.

    Attributes:
        usage: Form of the names of its spaces, for messages, such as "timm:<model name>".
    """

    usage: str

    def load(
        self, space: str, weights: str, options: LoadOptions, progress: Progress | None
    ) -> Supernet:
        """Loads a supernet and its weights; see `load_supernet`."""
        ...

    def weights_files(self, space: str, weights: str) -> list[Path]:
        """The files that `load` reads; none for a word such as "random".

        By default this is the file or folder that `weights` names.

        Raises:
            InputError: There is no such file or folder.
        """
        return weights_paths(weights)

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """Builds a static network with random weights, from the recipe of a `Subnet`.

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
"""Families by the name of a space, or by its part before the colon."""


def find_family(space: str) -> Family:
    """The family of a space or a network.

    Raises:
        InputError: The name is unknown.
    """
    kind = space.partition(":")[0]
    if kind not in FAMILIES:
        raise unknown_space(space)
    return FAMILIES[kind]


def unknown_space(space: str) -> InputError:
    """The error for an unknown space. The message lists the forms of known names."""
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
    """Loads a supernet and its weights.

    Args:
        space: "autopatch_s", "timm:<model name>", "elastic:<timm model name>", "ofa_mbv3" or one of
            its two networks, or a name of a registered family.
        weights: "random", or

            - for autopatch_s, "auto" for the weights in this package, or a .safetensors file;
            - for an elastic network, a .safetensors file;
            - for timm, a .safetensors file, or "pretrained" for the weights of timm's hub;
            - for Once-for-All, "auto" for the published weights, which are downloaded once, or a
              folder with them; for a single network also its file.
        mean: Channel means of the input, for pixels in [0, 1]; None for the means that belong to
            the weights.
        std: Channel standard deviations; None for those that belong to the weights.
        seed: Seed of random weights.
        progress: Called during a download.
        **options: Options of the family. timm and elastic networks have `timm_kwargs`, arguments of
            `timm.create_model`. Once-for-All has `recalibrate_batch_norm`: whether the batch norm
            statistics of each subnet are recomputed from the good images.

    Raises:
        InputError: The space is unknown, the weights are missing or do not fit, or an option is not
            one of the space's.
    """
    given = LoadOptions(mean=mean, std=std, seed=seed, own=options)
    return find_family(space).load(space, os.fspath(weights), given, progress)


def weights_files(space: str, weights: str) -> list[Path]:
    """The files that `load_supernet` reads; none for a word such as "random" or "auto".

    Raises:
        InputError: The space is unknown, or a file or folder is missing.
    """
    return find_family(space).weights_files(space, weights)


def build_network(recipe: Mapping[str, Any]) -> nn.Module:
    """Builds a static network with random weights, from the recipe of a `Subnet`.

    Raises:
        InputError: The network in the recipe is unknown or cannot be built.
        KeyError, TypeError: The recipe is malformed.
    """
    return find_family(str(recipe["network"])).build(recipe)


def restore_subnet(header: Mapping[str, Any]) -> Subnet:
    """Rebuilds a subnet from its `to_header()`. Its weights are random until `load_state_dict`.

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
