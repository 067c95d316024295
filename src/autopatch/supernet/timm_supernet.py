"""Backbones of timm as supernets: every set of levels is a subnet."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub import constants as hub
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
from torch import nn

from autopatch.errors import InputError
from autopatch.supernet.architecture import ELASTIC_FIELDS, Architecture, Level, describe_bank
from autopatch.supernet.backbone import build_backbone
from autopatch.supernet.space import Gene, SearchSpace
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.timm_features import LEAST_STRIDE, TIMM, feature_levels, features_model
from autopatch.supernet.weights import find_source, load_into, random_provenance

_HUB_TIMEOUT = 5.0  # seconds


class TimmSupernet:
    """A backbone of fixed weights whose subnets differ in the levels they give.

    Made by `load_supernet`. Its subnets share the weights: nothing may write to them.

    Attributes:
        name: "timm:<model>".
        levels: Levels of stride 4 and more, in order of depth.
        shared_levels: Indices of all of them.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.
        random_features: Whether the weights are random.
        recalibrate_batch_norm: False.
    """

    recalibrate_batch_norm: bool = False

    def __init__(
        self,
        timm_model: str,
        timm_kwargs: Mapping[str, Any],
        levels: Sequence[Level],
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
        random_features: bool,
    ) -> None:
        self.name = TIMM + timm_model
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.random_features = random_features
        self._timm_model = timm_model
        self._timm_kwargs = dict(timm_kwargs)
        self.levels = tuple(levels)
        self.shared_levels = tuple(level.index for level in levels)
        self._state = model.to(memory_format=torch.channels_last).state_dict()
        self._sizes: dict[int, dict[int, tuple[int, int]]] = {}
        self._flops: dict[tuple[int, int], int] = {}

    def get_active_subnet(self, architecture: Architecture) -> Subnet:
        """The static module for the levels of an architecture.

        Raises:
            InputError: The backbone has no such level, or nothing for the architecture to choose.
        """
        if architecture.supernet != self.name:
            raise InputError(
                f"the architecture is of {architecture.supernet}, the backbone is {self.name}"
            )
        known = {level.index: level for level in self.levels}
        for index in architecture.levels:
            if index not in known:
                raise InputError(
                    f"{self.name} has no level {index}, but {', '.join(map(str, known))}"
                )
        if any(getattr(architecture, name) for name in ELASTIC_FIELDS):
            raise InputError(f"{self.name} has no kernel sizes, expand ratios or depths to choose")
        recipe = {
            "supernet": self.name,
            "timm_kwargs": self._timm_kwargs,
            "levels": list(architecture.levels),
        }
        subnet = Subnet(
            build_backbone(recipe),
            recipe,
            [known[index] for index in architecture.levels],
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )
        state = {name: self._state[name] for name in subnet.backbone.state_dict()}
        subnet.backbone.load_state_dict(state, assign=True)
        return subnet

    def chosen_levels(self, architecture: Architecture) -> tuple[Level, ...]:
        """The levels of an architecture."""
        return tuple(level for level in self.levels if level.index in architecture.levels)

    def grid(self, architecture: Architecture) -> tuple[int, int]:
        """Patch positions (H, W) of an image: those of the largest chosen feature map.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        image_size = architecture.image_size
        if image_size not in self._sizes:
            levels = self.shared_levels
            every_level = replace(architecture, levels=levels, patch_sizes=(1,) * len(levels))
            sizes, _ = self.get_active_subnet(every_level).trace(image_size)
            self._sizes[image_size] = dict(zip(levels, sizes, strict=True))
        return max(self._sizes[image_size][level] for level in architecture.levels)

    def flops(self, architecture: Architecture) -> int:
        """FLOPs of a subnet for one image, two a multiply-add of convolutions and matrix products.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        # All up to the deepest level is run, whichever others are chosen.
        key = (architecture.levels[-1], architecture.image_size)
        if key not in self._flops:
            subnet = self.get_active_subnet(architecture)
            self._flops[key] = subnet.cost(architecture.image_size)[1]
        return self._flops[key]

    def published_cost(self, architecture: Architecture) -> None:
        """None: the published rule is that of the Once-for-All supernets."""

    def describe(self, architecture: Architecture) -> str:
        """Short text such as "224 px, stride 4 p3 + stride 8 p3, bank 5000"."""
        names = _level_names(self.levels)
        parts = []
        for index, patch_size in zip(architecture.levels, architecture.patch_sizes, strict=True):
            name = names[index]
            kind = name.rstrip("0123456789")
            parts.append(f"{kind} {name[len(kind) :]} p{patch_size}")
        return f"{architecture.image_size} px, {' + '.join(parts)}, {describe_bank(architecture)}"

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
        names = _level_names(self.levels)
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
        for image_size in image_sizes:
            for level in self.levels:
                one = Architecture(self.name, image_size, (level.index,), (1,), None)
                smallest = min(self.grid(one))
                if smallest < 2:
                    raise InputError(
                        f"image size {image_size}: the map of stride {level.stride} is {smallest} "
                        "wide, expected at least 2; choose larger images"
                    )
        return space

    def patchcore(self, *, bank_size: int | None) -> Architecture | None:
        """PatchCore's usual choice: the levels of stride 8 and 16, patch size 3, images of 224 px.

        Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.

        Returns:
            The architecture; None if the backbone has no such levels.
        """
        levels = []
        for stride in (8, 16):
            # The deepest of a stride, where there are several.
            found = [level.index for level in self.levels if level.stride == stride]
            if not found:
                return None
            levels.append(found[-1])
        return Architecture(self.name, 224, tuple(sorted(levels)), (3, 3), bank_size)


def _level_names(levels: Sequence[Level]) -> dict[int, str]:
    """Short names by level index: "stride8" where no two levels share a stride, else "level9"."""
    counts = Counter(level.stride for level in levels)
    unique = all(count == 1 for count in counts.values())
    return {
        level.index: f"stride{level.stride}" if unique else f"level{level.index}"
        for level in levels
    }


def load_timm_supernet(
    space: str,
    weights: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    timm_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TimmSupernet:
    """A backbone of timm with its weights, see `find_source`.

    Args:
        space: "timm:<model name>".
        weights: See `find_source`.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        timm_kwargs: Arguments of `timm.create_model`.
        seed: Of random weights.

    Raises:
        InputError: The weights cannot be had or do not fit, or as `find_source` says.
    """
    source = find_source(space, weights, mean=mean, std=std, timm_kwargs=timm_kwargs)
    name, kwargs = source.name, source.kwargs
    levels = [level for level in feature_levels(name, kwargs) if level.stride >= LEAST_STRIDE]
    if not levels:
        raise InputError(f"{space} has no feature level of stride {LEAST_STRIDE} or more")
    indices = [level.index for level in levels]
    if weights == "pretrained":
        model = _pretrained(name, kwargs, indices)
        provenance = f"weights of timm's hub ({source.hub})"
    else:
        model = features_model(name, kwargs, out_indices=indices, seed=seed)
        provenance = random_provenance(seed)
    if source.file is not None:
        load_into(model, source.file)
        provenance = f"weights of {source.file.path.name}"
    return TimmSupernet(
        name,
        kwargs,
        levels,
        model,
        mean=source.mean,
        std=source.std,
        provenance=provenance,
        random_features=weights == "random",
    )


def _pretrained(name: str, kwargs: Mapping[str, Any], indices: Sequence[int]) -> nn.Module:
    reachable = _hub_reachable()
    try:
        with warnings.catch_warnings(), _hub_offline(not reachable):
            warnings.simplefilter("ignore")
            return features_model(name, kwargs, out_indices=indices, pretrained=True)
    except InputError as error:
        reason = str(error) if reachable else f"no cached copy, and {hub.ENDPOINT} does not answer"
        raise InputError(
            f"the weights of timm:{name} could not be had from timm's hub ({reason}); give "
            "--weights FILE.safetensors, or --weights random to try the program without them"
        ) from error


def _hub_reachable() -> bool:
    # Where there is no network, the hub's client repeats each request for most of a minute.
    try:
        get_session().head(hub.ENDPOINT, timeout=_HUB_TIMEOUT)
    # It raises the errors of whichever HTTP library it uses, and its own in offline mode.
    except Exception:
        return False
    return True


@contextmanager
def _hub_offline(offline: bool) -> Iterator[None]:
    """Keeps the hub's client to its local cache."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
