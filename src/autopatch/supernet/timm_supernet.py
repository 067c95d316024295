"""timm backbones as supernets: each set of levels is a subnet."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants as hub
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
from torch import nn

from autopatch.errors import InputError
from autopatch.genes import Gene
from autopatch.progress import Progress
from autopatch.supernet.backbone import Backbone, Level
from autopatch.supernet.family import Family, unknown_space
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.supernet import Supernet
from autopatch.supernet.timm_features import LEAST_STRIDE, TIMM, feature_levels, features_model
from autopatch.supernet.weights import LoadOptions, find_source, load_into

_HUB_TIMEOUT = 5.0  # seconds


class TimmSupernet(Supernet):
    """A timm backbone, made by `load_supernet`. Its subnets differ only in their levels.

    Subnets share the weights; a subnet copies them before other weights are loaded into it.

    Args:
        timm_model: Name of the model.
        timm_kwargs: Arguments of `timm.create_model`.
        levels: Levels of stride 4 or more, in order of depth.
        model: Computes the feature maps of all these levels.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
        provenance: Origin of the weights, on one line.
        random_features: Whether the weights are random.
    """

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
        super().__init__(
            TIMM + timm_model,
            mean=mean,
            std=std,
            provenance=provenance,
            random_features=random_features,
        )
        self._timm_kwargs = dict(timm_kwargs)
        self._levels = tuple(levels)
        self._level_names = _level_names(levels)
        self._state = model.to(memory_format=torch.channels_last).state_dict()

    def genes(self) -> list[Gene]:
        """One gene for each level: whether it is used."""
        return [
            Gene(
                f"use_{kind}{number}",
                (False, True),
                "backbone",
                "level",
                slot=index,
                per_level=f"{{}}_{kind}{number}",
            )
            for index, (kind, number) in self._level_names.items()
        ]

    def all_levels(self, network: str) -> tuple[Level, ...]:
        """Levels of stride 4 or more, in order of depth."""
        return self._levels

    def largest(self, levels: Sequence[int] | None = None) -> Backbone:
        """The backbone with all levels, or with the given ones."""
        every = [level.index for level in self._levels]
        return Backbone(self.name, tuple(every if levels is None else levels))

    def check(self, backbone: Backbone) -> None:
        """Raises InputError unless the backbone is a set of this network's levels, without a
        setting."""
        self.levels(backbone)
        if backbone.setting:
            raise InputError(f"{self.name} has no {' or '.join(backbone.setting)} to choose")

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The tensors of the feature extractor with all levels."""
        return self._state

    def get_active_subnet(self, backbone: Backbone) -> Subnet:
        """Extracts the static module for the levels of a backbone.

        Raises:
            InputError: See `check`.
        """
        self.check(backbone)
        recipe = {
            "network": self.name,
            "timm_kwargs": self._timm_kwargs,
            "levels": list(backbone.levels),
        }
        subnet = Subnet(
            FAMILY.build(recipe),
            recipe,
            self.levels(backbone),
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
        )
        state = {name: self._state[name] for name in subnet.network.state_dict()}
        subnet.network.load_state_dict(state, assign=True)
        return subnet

    def shared(self, backbone: Backbone) -> Backbone:
        """All levels, because the map of a level does not depend on the other levels."""
        return self.largest()

    def level_names(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the selected levels: "stride 8", or "level 9" if levels share a stride."""
        return tuple("{} {}".format(*self._level_names[index]) for index in backbone.levels)


def _level_names(levels: Sequence[Level]) -> dict[int, tuple[str, int]]:
    """Kind and number of each level by its index: ("stride", 8), or ("level", 9) if any two levels
    have the same stride."""
    counts = Counter(level.stride for level in levels)
    unique = all(count == 1 for count in counts.values())
    return {
        level.index: ("stride", level.stride) if unique else ("level", level.index)
        for level in levels
    }


class TimmFamily(Family):
    """Feature extractors of timm."""

    usage = "timm:<model name>"

    def load(
        self, space: str, weights: str, options: LoadOptions, progress: Progress | None
    ) -> TimmSupernet:
        """Loads a timm backbone and its weights, see `find_source`.

        Args:
            space: "timm:<model name>".
            weights: See `find_source`.
            options: `timm_kwargs`, normalization and seed.
            progress: Never called.

        Raises:
            InputError: The weights are missing or do not fit; see also `find_source`.
        """
        if not space.startswith(TIMM):
            raise unknown_space(space)
        if weights == "auto":
            raise InputError(
                f"{space} has no weights of its own: give `weights`: FILE.safetensors, "
                "'pretrained' or 'random'"
            )
        source = find_source(space, weights, options)
        name, kwargs = source.name, source.kwargs
        levels = [level for level in feature_levels(name, kwargs) if level.stride >= LEAST_STRIDE]
        if not levels:
            raise InputError(f"{space} has no feature level of stride {LEAST_STRIDE} or more")
        indices = [level.index for level in levels]
        if weights == "pretrained":
            model = _pretrained(name, kwargs, indices)
        else:
            model = features_model(name, kwargs, out_indices=indices, seed=options.seed)
        if source.file is not None:
            load_into(model, source.file)
        return TimmSupernet(
            name,
            kwargs,
            levels,
            model,
            mean=source.mean,
            std=source.std,
            provenance=source.provenance,
            random_features=source.is_random,
        )

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """timm's feature extractor for some levels, with random weights."""
        name = str(recipe["network"]).removeprefix(TIMM)
        return features_model(name, recipe["timm_kwargs"], out_indices=recipe["levels"])


FAMILY = TimmFamily()


def _pretrained(name: str, kwargs: Mapping[str, Any], indices: Sequence[int]) -> nn.Module:
    reachable = _hub_reachable()
    try:
        with warnings.catch_warnings(), _hub_offline(not reachable):
            warnings.simplefilter("ignore")
            return features_model(name, kwargs, out_indices=indices, pretrained=True)
    except InputError as error:
        reason = str(error) if reachable else f"no cached copy, and {hub.ENDPOINT} does not answer"
        raise InputError(
            f"the weights of timm:{name} cannot be loaded from timm's hub ({reason}); give "
            "`weights`: FILE.safetensors, or 'random' to try the program without them"
        ) from error


def _hub_reachable() -> bool:
    # Offline, the hub's client would retry each request for most of a minute.
    try:
        get_session().head(hub.ENDPOINT, timeout=_HUB_TIMEOUT)
    # The client raises errors of its HTTP library, and others in offline mode.
    except Exception:
        return False
    return True


@contextmanager
def _hub_offline(offline: bool) -> Iterator[None]:
    """Restricts the hub's client to its local cache."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
