"""Subnets: static modules that give the feature maps of chosen levels and run nothing else."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet, FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autopatch.errors import InputError
from autopatch.supernet.architecture import Level, check_image_size
from autopatch.supernet.weights import check_channels


class Subnet(nn.Module):
    """A timm backbone cut after the deepest of the chosen levels; frozen, in eval mode.

    Args:
        timm_model: Name of the timm model.
        timm_kwargs: Arguments of `timm.create_model`.
        levels: The levels taken, in order of depth.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.

    Raises:
        InputError: timm cannot build the model, or it cannot be cut after a level.
    """

    def __init__(
        self,
        timm_model: str,
        timm_kwargs: Mapping[str, Any],
        levels: Sequence[Level],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
    ) -> None:
        super().__init__()
        self.timm_model = timm_model
        self.timm_kwargs = dict(timm_kwargs)
        self.levels = tuple(levels)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.backbone = features_model(
            timm_model, timm_kwargs, out_indices=[level.index for level in levels]
        )
        # Swin and a few others give their maps as [N, H, W, C].
        self._channels_last_axis = str(getattr(self.backbone, "output_fmt", "")).endswith("NHWC")
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `[N, C_l, H_l, W_l]` of the levels for normalized images `[N, 3, S, S]`."""
        maps: list[torch.Tensor] = self.backbone(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last_axis else maps

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 `[N, 3, S, S]` as the backbone wants them: float32, channels last."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"`images` is {images.dtype} of shape {list(images.shape)}, expected uint8 "
                "[N, 3, S, S]"
            )
        mean = torch.tensor(self.mean, device=images.device).mul(255).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).mul(255).view(3, 1, 1)
        # MobileNets run a third faster on a CPU in this layout, ResNets a fifth.
        pixels = images.contiguous(memory_format=torch.channels_last)
        return pixels.float().sub_(mean).div_(std)

    def cost(self, image_size: int) -> tuple[tuple[int, int], int]:
        """Patch positions (H, W) of an image, those of the largest feature map, and FLOPs of one
        image, two a multiply-add of convolutions and matrix products.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        sizes, flops = self.trace(image_size)
        return max(sizes), flops

    def trace(self, image_size: int) -> tuple[list[tuple[int, int]], int]:
        """Height and width of each feature map of an image, and FLOPs of one image.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        check_image_size(image_size)
        # Shapes and FLOPs need no arithmetic: a copy of the subnet without values does.
        subnet = copy.deepcopy(self).to("meta")
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                maps = subnet(torch.empty(1, 3, image_size, image_size, device="meta"))
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"timm:{self.timm_model} does not take images of {image_size} px: {one_line(error)}"
            ) from error
        for level, feature_map in zip(self.levels, maps, strict=True):
            if feature_map.ndim != 4 or feature_map.shape[1] != level.channels:
                raise InputError(
                    f"timm:{self.timm_model}: level {level.index} gives {list(feature_map.shape)}, "
                    f"expected [1, {level.channels}, H, W]"
                )
        sizes = [(int(m.shape[2]), int(m.shape[3])) for m in maps]
        return sizes, int(counter.get_total_flops())

    def to_header(self) -> dict[str, Any]:
        """All but the weights, as values that JSON can hold."""
        return {
            "timm_model": self.timm_model,
            "timm_kwargs": self.timm_kwargs,
            "levels": [[level.index, level.stride, level.channels] for level in self.levels],
            "mean": list(self.mean),
            "std": list(self.std),
            "provenance": self.provenance,
        }

    @classmethod
    def restore(cls, header: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Subnet:
        """A subnet from `to_header()` and `state_dict()`, without network.

        Raises:
            InputError: The state does not fit the header.
            KeyError, TypeError: The header is not one.
        """
        subnet = cls(
            header["timm_model"],
            header["timm_kwargs"],
            [Level(*level) for level in header["levels"]],
            mean=check_channels("mean", header["mean"]),
            std=check_channels("std", header["std"]),
            provenance=header["provenance"],
        )
        try:
            subnet.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise InputError(f"the subnet's weights do not fit: {one_line(error)}") from error
        return subnet.to(memory_format=torch.channels_last)


# Arguments of `timm.create_model` that say where weights come from or which maps to give.
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
    """timm's feature extractor, without the stages behind the deepest of `out_indices`.

    Its weights are random, drawn with `seed`, unless they are pretrained.

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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = timm.create_model(name, features_only=True, **chosen, **kwargs)
    # Models raise errors of many classes when their arguments do not suit them.
    except Exception as error:
        given = f" with timm_kwargs {dict(kwargs)}" if kwargs else ""
        raise InputError(f"timm:{name} gives no feature maps{given}: {one_line(error)}") from error
    if isinstance(model, EfficientNetFeatures | MobileNetV3Features):
        # These keep and run all stages: a level's name is "bn1", the stem, or begins "blocks.3".
        names = model.feature_info.module_name()
        stages = [int(n.split(".")[1]) + 1 for n in names if n.startswith("blocks.")]
        model.blocks = model.blocks[: max(stages, default=0)]
    elif not isinstance(model, FeatureGetterNet | FeatureListNet):
        # HRNet, NASNet and a few more run whole whatever level is asked for.
        raise InputError(
            f"timm:{name} cannot be cut after a feature level ({type(model).__name__}), choose "
            "another model"
        )
    return model


def one_line(error: Exception) -> str:
    """What an error says, as one line of at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__
