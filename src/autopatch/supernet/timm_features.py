"""timm's feature extractors, cut after the deepest selected level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.models._features import FeatureGetterNet, FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn

from autopatch.errors import InputError, one_line
from autopatch.supernet.backbone import Level
from autopatch.supernet.random_weights import SeededWeights

TIMM = "timm:"
LEAST_STRIDE = 4
"""Smallest stride of the levels used. Finer maps have many more patches, and each carries much
less information."""

# Arguments of `timm.create_model` that only this module may set: source of weights, feature maps.
_RESERVED = {
    "cache_dir",
    "checkpoint_path",
    "feature_cfg",
    "feature_cls",
    "features_only",
    "in_chans",
    "out_indices",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


def feature_levels(name: str, kwargs: Mapping[str, Any]) -> tuple[Level, ...]:
    """All feature levels of a timm model.

    Raises:
        InputError: timm cannot build the model, or it cannot be cut after a level.
    """
    return tuple(
        Level(index, int(level["reduction"]), int(level["num_chs"]))
        for index, level in enumerate(_extractor(name, kwargs).feature_info.info)
    )


def features_model(
    name: str,
    kwargs: Mapping[str, Any],
    *,
    out_indices: Sequence[int],
    pretrained: bool = False,
    seed: int = 0,
) -> nn.Module:
    """timm's feature extractor, without the stages after the deepest of `out_indices`.

    Its weights are random, from `seed`, unless `pretrained` is set.

    Raises:
        InputError: timm cannot build the model, or it cannot be cut after a level.
    """
    chosen = {"out_indices": tuple(out_indices), "pretrained": pretrained}
    model: nn.Module = _extractor(name, kwargs, seed=seed, **chosen)
    return model


def _extractor(name: str, kwargs: Mapping[str, Any], *, seed: int = 0, **chosen: Any) -> Any:
    for argument in sorted(_RESERVED & kwargs.keys()):
        raise InputError(f"timm_kwargs holds {argument}, which autopatch sets itself")
    try:
        with SeededWeights(seed):
            model = timm.create_model(name, features_only=True, **chosen, **kwargs)
    # Models raise many kinds of errors for wrong arguments.
    except Exception as error:
        given = f" with timm_kwargs {dict(kwargs)}" if kwargs else ""
        raise InputError(f"timm:{name} gives no feature maps{given}: {one_line(error)}") from error
    if isinstance(model, EfficientNetFeatures | MobileNetV3Features):
        # These run all stages. A level is named "bn1" (the stem) or starts with "blocks.3" etc.
        names = model.feature_info.module_name()
        stages = [int(n.split(".")[1]) + 1 for n in names if n.startswith("blocks.")]
        model.blocks = model.blocks[: max(stages, default=0)]
    elif not isinstance(model, FeatureGetterNet | FeatureListNet):
        # HRNet, NASNet and a few others cannot be cut.
        raise InputError(
            f"timm:{name} cannot be cut after a feature level ({type(model).__name__}), choose "
            "another model"
        )
    return model
