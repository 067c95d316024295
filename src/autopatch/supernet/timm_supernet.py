"""Backbones of timm as supernets: every set of levels is a subnet."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.supernet.architecture import Architecture, Level, level_names
from autopatch.supernet.space import Gene, SearchSpace
from autopatch.supernet.subnet import Subnet, features_model
from autopatch.supernet.weights import load_into, read_weights

_PREFIX = "timm:"
_LEAST_STRIDE = 4  # finer maps make far more patches of far less meaning
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class TimmSupernet:
    """A backbone of fixed weights whose subnets differ in the levels they give.

    Made by `load_supernet`.

    Attributes:
        name: "timm:<model>".
        levels: Levels of stride 4 and more, in order of depth.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.
        random_features: Whether the weights are random.
    """

    def __init__(
        self,
        timm_model: str,
        timm_kwargs: Mapping[str, Any],
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
        random_features: bool,
    ) -> None:
        self.name = _PREFIX + timm_model
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.random_features = random_features
        self._timm_model = timm_model
        self._timm_kwargs = dict(timm_kwargs)
        self._state = model.state_dict()
        info = model.feature_info
        strides: list[int] = info.reduction()  # type: ignore[union-attr,operator]
        channels: list[int] = info.channels()  # type: ignore[union-attr,operator]
        self.levels = tuple(
            Level(index, stride, width)
            for index, (stride, width) in enumerate(zip(strides, channels, strict=True))
            if stride >= _LEAST_STRIDE
        )
        if not self.levels:
            raise InputError(f"{self.name} has no feature level of stride {_LEAST_STRIDE} or more")
        self._subnets: dict[tuple[int, ...], Subnet] = {}
        self._costs: dict[tuple[tuple[int, ...], int], tuple[tuple[int, int], int]] = {}

    def get_active_subnet(self, levels: Sequence[int]) -> Subnet:
        """The static module for some levels, by index.

        Raises:
            InputError: An index is not one of the backbone's levels.
        """
        key = tuple(levels)
        if key not in self._subnets:
            known = {level.index: level for level in self.levels}
            for index in key:
                if index not in known:
                    raise InputError(
                        f"{self.name} has no level {index}, but {', '.join(map(str, known))}"
                    )
            subnet = Subnet(
                self._timm_model,
                self._timm_kwargs,
                [known[index] for index in key],
                mean=self.mean,
                std=self.std,
                provenance=self.provenance,
            )
            own = subnet.backbone.state_dict()
            subnet.backbone.load_state_dict({name: self._state[name] for name in own})
            self._subnets[key] = subnet.to(memory_format=torch.channels_last)
        return self._subnets[key]

    def grid(self, levels: Sequence[int], image_size: int) -> tuple[int, int]:
        """Patch positions (H, W) of an image: those of the largest chosen feature map."""
        return self._cost(levels, image_size)[0]

    def flops(self, levels: Sequence[int], image_size: int) -> int:
        """FLOPs of a subnet for one image, two a multiply-add."""
        return self._cost(levels, image_size)[1]

    def _cost(self, levels: Sequence[int], image_size: int) -> tuple[tuple[int, int], int]:
        key = (tuple(levels), image_size)
        if key not in self._costs:
            self._costs[key] = self.get_active_subnet(levels).cost(image_size)
        return self._costs[key]

    def search_space(
        self,
        *,
        image_sizes: Sequence[int] = (160, 224, 288),
        patch_sizes: Sequence[int] = (1, 3, 5, 7),
        bank_sizes: Sequence[int | None] = (500, 1000, 2000, 5000, 10000),
    ) -> SearchSpace:
        """Which levels, a patch size for each, the image size and the size of the bank.

        Raises:
            InputError: A choice is out of range, or the backbone does not take an image size.
        """
        names = level_names(self.levels)
        genes = [
            Gene("image_size", tuple(image_sizes), "image_size"),
            Gene("bank_size", tuple(bank_sizes), "bank_size"),
        ]
        for level in self.levels:
            use = f"use_{names[level.index]}"
            genes.append(Gene(use, (False, True), "level", slot=level.index))
            genes.append(
                Gene(
                    f"patch_size_{names[level.index]}",
                    tuple(patch_sizes),
                    "patch_size",
                    slot=level.index,
                    active_if=(use,),
                )
            )
        space = SearchSpace(self.name, tuple(genes))
        for image_size, level in product(image_sizes, self.levels):
            smallest = min(self.grid([level.index], image_size))
            if smallest < 2:
                raise InputError(
                    f"image size {image_size}: the map of stride {level.stride} is {smallest} wide, "
                    "expected at least 2; choose larger images"
                )
        return space

    def patchcore(self, *, bank_size: int | None) -> Architecture | None:
        """PatchCore's usual choice (Roth et al., 2022): the levels of stride 8 and 16, patch size 3,
        images of 224; None if the backbone has no such levels."""
        levels = []
        for stride in (8, 16):
            # The deepest of a stride, where there are several.
            found = [level.index for level in self.levels if level.stride == stride]
            if not found:
                return None
            levels.append(found[-1])
        return Architecture(self.name, 224, tuple(sorted(levels)), (3, 3), bank_size)


def load_supernet(
    space: str,
    weights: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    timm_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TimmSupernet:
    """A backbone of timm with its weights.

    Args:
        space: "timm:<model name>".
        weights: A .safetensors file, "pretrained" for those of timm's hub, or "random". A file
            must carry `timm_kwargs`, `mean` and `std` in its metadata, or they must be given; what
            is given goes before the metadata.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        timm_kwargs: Arguments of `timm.create_model`.
        seed: Of random weights.

    Raises:
        InputError: The model is unknown, the weights cannot be had or do not fit, or mean, std or
            timm_kwargs are known from nowhere.
    """
    if not space.startswith(_PREFIX):
        raise InputError(f"search space '{space}' is unknown, expected timm:<model name>")
    name = space.removeprefix(_PREFIX)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"timm has no model '{name}'{hint}")
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _create(name, timm_kwargs or {})
        provenance = f"RANDOM features: weights drawn with seed {seed}, trained on nothing"
    elif weights == "pretrained":
        model = _pretrained(name, timm_kwargs or {})
        settings = timm.get_pretrained_cfg(name)
        mean, std = mean or settings.mean, std or settings.std
        provenance = f"weights of timm's hub ({settings.hf_hub_id or name})"
    else:
        file = read_weights(Path(weights))
        if file.timm_model not in (None, name):
            raise InputError(
                f"{weights}: holds weights of timm:{file.timm_model}, but the space is {space}"
            )
        timm_kwargs = timm_kwargs if timm_kwargs is not None else file.timm_kwargs
        mean, std = mean or file.mean, std or file.std
        for setting, value in (("timm_kwargs", timm_kwargs), ("mean", mean), ("std", std)):
            if value is None:
                raise InputError(
                    f"{weights}: {setting} is not in the file's metadata; give "
                    f"--{setting.replace('_', '-')}"
                )
        model = _create(name, timm_kwargs or {})
        load_into(model, file)
        provenance = f"weights of {Path(weights).name}"
    return TimmSupernet(
        name,
        timm_kwargs or {},
        model,
        mean=mean or _IMAGENET_MEAN,
        std=std or _IMAGENET_STD,
        provenance=provenance,
        random_features=weights == "random",
    )


def _create(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    try:
        return features_model(name, kwargs)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(
            f"timm:{name} gives no feature maps with {dict(kwargs)}: {line}"
        ) from error


def _pretrained(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return features_model(name, kwargs, pretrained=True)
    # The hub's client raises errors of a dozen classes where there is no network.
    except Exception as error:
        line = " ".join(str(error).split())[:120]
        raise InputError(
            f"the weights of timm:{name} could not be had from timm's hub "
            f"({type(error).__name__}: {line}); give --weights FILE.safetensors, or --weights random "
            "to try the program without them"
        ) from error
