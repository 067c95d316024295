"""Elastic networks of timm's blocks as supernets: an expand ratio and a depth for each level."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autopatch.errors import InputError
from autopatch.supernet.architecture import Architecture, Level, describe_bank
from autopatch.supernet.elastic_timm import (
    RATIOS,
    ElasticSetting,
    ElasticTimmNetwork,
    check_setting,
)
from autopatch.supernet.space import Gene, SearchSpace
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.weights import find_source, load_into, random_provenance

ELASTIC = "elastic:"
AUTOPATCH_S = "autopatch_s"
"""Name of the supernet in this package, an elastic MobileNetV2; docs/models.md is its card."""

_AUTOPATCH_S_MODEL = "elastic:mobilenetv2_100"
_AUTOPATCH_S_FILE = Path(__file__).with_name("autopatch_s.safetensors")
_AUTOPATCH_S_SHA256 = "c735316968081f8da1c947c993cbf50b413d1d6166e4696ef4a237c442757783"


class ElasticSupernet:
    """An elastic network; every choice of ratios, depths and levels is a subnet. Made by
    `load_supernet`.

    Args:
        name: Of the space.
        network: The weights.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.
        random_features: Whether the weights are random.

    Attributes:
        shared_levels: Empty: two architectures hardly ever run the same blocks.
        recalibrate_batch_norm: False: its statistics are fixed.
    """

    shared_levels: tuple[int, ...] = ()
    recalibrate_batch_norm: bool = False

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
        self.name = name
        self.network = network
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.random_features = random_features
        self._levels = {section.level.index: section.level for section in network.sections}
        self._sizes: dict[int, dict[int, tuple[int, int]]] = {}
        self._flops: dict[tuple[int, ElasticSetting], int] = {}

    def get_active_subnet(self, architecture: Architecture) -> Subnet:
        """The static module of an architecture, with weights of its own.

        Raises:
            InputError: The architecture is of another supernet, or of no valid setting.
        """
        return self._subnet(self._setting(architecture))

    def chosen_levels(self, architecture: Architecture) -> tuple[Level, ...]:
        """The levels of an architecture."""
        self._check_name(architecture)
        return tuple(level for level in self._levels.values() if level.index in architecture.levels)

    def grid(self, architecture: Architecture) -> tuple[int, int]:
        """Patch positions (H, W) of an image: those of the largest chosen feature map.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        sides = self._sides(architecture.image_size)
        return max(sides[level.index] for level in self.chosen_levels(architecture))

    def flops(self, architecture: Architecture) -> int:
        """FLOPs of a subnet for one image, two a multiply-add of convolutions.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        setting = self._setting(architecture)
        # All up to the deepest level is run, whichever others are chosen.
        key = (
            architecture.image_size,
            ElasticSetting(setting.expand_ratios, setting.depths, setting.levels[-1:]),
        )
        if key not in self._flops:
            self._flops[key] = self._subnet(key[1]).cost(architecture.image_size)[1]
        return self._flops[key]

    def published_cost(self, architecture: Architecture) -> None:
        """None: the published rule is that of the Once-for-All supernets."""

    def patchcore(self, *, bank_size: int | None) -> Architecture | None:
        """PatchCore's usual choice: the levels of stride 8 and 16, patch size 3, images of 224 px,
        of the largest network; None if there are no such levels.

        Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
        """
        by_stride = {level.stride: index for index, level in self._levels.items()}
        if not {8, 16} <= by_stride.keys():
            return None
        levels = (by_stride[8], by_stride[16])
        largest = self.network.largest_setting
        run = [index <= levels[-1] for index in self._levels].count(True)
        return Architecture(
            self.name,
            224,
            levels,
            (3, 3),
            bank_size,
            expand_ratios=largest.expand_ratios[:run],
            depths=largest.depths[:run],
        )

    def describe(self, architecture: Architecture) -> str:
        """Short text such as "224 px, ratios 4 3, depths 2 3, stride 4 p3 + stride 8 p3, bank
        5000"."""
        levels = [
            f"stride {self._levels[index].stride} p{patch_size}"
            for index, patch_size in zip(architecture.levels, architecture.patch_sizes, strict=True)
        ]
        parts = [
            f"{architecture.image_size} px",
            f"ratios {' '.join(map(str, architecture.expand_ratios))}",
            f"depths {' '.join(map(str, architecture.depths))}",
            " + ".join(levels),
            describe_bank(architecture),
        ]
        return ", ".join(parts)

    def search_space(
        self,
        *,
        image_sizes: Sequence[int] = (160, 224, 288),
        patch_sizes: Sequence[int] = (1, 3, 5, 7),
        bank_sizes: Sequence[int | None] = (500, 1000, 2000, 5000, 10000),
    ) -> SearchSpace:
        """Expand ratio, depth and patch size of each level, which levels, the image size and the
        size of the bank.

        Raises:
            InputError: A choice is out of range, or an image size too small.
        """
        genes = [
            Gene("image_size", tuple(image_sizes), "image_size"),
            Gene("bank_size", tuple(bank_sizes), "bank_size"),
        ]
        uses = [f"use_stride{level.stride}" for level in self._levels.values()]
        for number, section in enumerate(self.network.sections):
            slot, stride = section.level.index, section.level.stride
            deeper = tuple(uses[number:])
            genes += [
                Gene(f"expand_ratio_stride{stride}", RATIOS, "expand_ratio", slot, deeper),
                Gene(f"depth_stride{stride}", section.depths, "depth", slot, deeper),
                Gene(uses[number], (False, True), "level", slot),
                Gene(
                    f"patch_size_stride{stride}",
                    tuple(patch_sizes),
                    "patch_size",
                    slot,
                    (uses[number],),
                ),
            ]
        for image_size in image_sizes:
            sides = self._sides(image_size)
            for index, level in self._levels.items():
                if min(sides[index]) < 2:
                    raise InputError(
                        f"image size {image_size}: the map of stride {level.stride} is "
                        f"{min(sides[index])} wide, expected at least 2; choose larger images"
                    )
        return SearchSpace(self.name, tuple(genes))

    def _sides(self, image_size: int) -> dict[int, tuple[int, int]]:
        """(H, W) of the map of each level, the same for all ratios and depths."""
        if image_size not in self._sizes:
            sizes, _ = self._subnet(self.network.largest_setting).trace(image_size)
            self._sizes[image_size] = dict(zip(self._levels, sizes, strict=True))
        return self._sizes[image_size]

    def _setting(self, architecture: Architecture) -> ElasticSetting:
        self._check_name(architecture)
        if architecture.kernel_sizes:
            raise InputError(f"{self.name} has no kernel sizes to choose")
        setting = ElasticSetting(
            architecture.expand_ratios, architecture.depths, architecture.levels
        )
        check_setting(self.network.sections, setting)
        return setting

    def _check_name(self, architecture: Architecture) -> None:
        if architecture.supernet != self.name:
            raise InputError(
                f"the architecture is of {architecture.supernet}, the backbone is {self.name}"
            )

    def _subnet(self, setting: ElasticSetting) -> Subnet:
        recipe = {
            "supernet": self.name,
            "timm_model": self.network.timm_model,
            "timm_kwargs": self.network.timm_kwargs,
            **{key: list(value) for key, value in asdict(setting).items()},
        }
        return Subnet(
            self.network.get_active_subnet(setting),
            recipe,
            [self._levels[index] for index in setting.levels],
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )


def load_elastic_supernet(
    space: str,
    weights: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    timm_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ElasticSupernet:
    """An elastic network with its weights, see `load_supernet`.

    Args:
        space: "autopatch_s" or "elastic:<model of timm>".
        weights: A .safetensors file as training/distill.py writes it, "random", or of autopatch_s
            "auto" for those in this package.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        timm_kwargs: Arguments of `timm.create_model`.
        seed: Of random weights.

    Raises:
        InputError: The weights cannot be had or do not fit, or as `find_source` says.
    """
    packaged = weights == "auto" and space == AUTOPATCH_S
    if weights == "pretrained" or (weights == "auto" and not packaged):
        own = "'auto', " if space == AUTOPATCH_S else ""
        raise InputError(
            f"{space} has no weights '{weights}': give --weights {own}FILE.safetensors or 'random'"
        )
    if packaged:
        _check_packaged_file()
        weights = str(_AUTOPATCH_S_FILE)
    model = _AUTOPATCH_S_MODEL if space == AUTOPATCH_S else space
    source = find_source(model, weights, mean=mean, std=std, timm_kwargs=timm_kwargs)
    network = ElasticTimmNetwork(source.name, source.kwargs, seed=seed)
    provenance = random_provenance(seed)
    if source.file is not None:
        if not any(name.startswith("largest.") for name in source.file.state):
            raise InputError(
                f"{source.file.path}: holds no elastic network, expected a file that "
                "training/distill.py wrote; for the network as it is give --space "
                f"timm:{source.name}"
            )
        load_into(network, source.file)
        provenance = f"weights of {source.file.path.name}"
    if packaged:
        provenance = f"weights of {space} in this package ({_AUTOPATCH_S_SHA256[:8]})"
    return ElasticSupernet(
        space,
        network.to(memory_format=torch.channels_last).requires_grad_(False),
        mean=source.mean,
        std=source.std,
        provenance=provenance,
        random_features=weights == "random",
    )


def _check_packaged_file() -> None:
    found = None
    if _AUTOPATCH_S_FILE.is_file():
        found = hashlib.sha256(_AUTOPATCH_S_FILE.read_bytes()).hexdigest()
    if found != _AUTOPATCH_S_SHA256:
        raise InputError(
            f"{_AUTOPATCH_S_FILE}: {'is absent' if found is None else 'is damaged'}; install "
            "autopatch anew"
        )
