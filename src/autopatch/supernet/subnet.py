"""Subnets: static modules that give the feature maps of chosen levels and run nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autopatch.errors import InputError
from autopatch.supernet.architecture import Level


class Subnet(nn.Module):
    """A timm backbone cut after the deepest of the chosen levels; frozen, in eval mode.

    Args:
        timm_model: Name of the timm model.
        timm_kwargs: Arguments of `timm.create_model`.
        levels: The levels taken, in order of depth.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.
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
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `[N, C_l, H_l, W_l]` of the levels for normalized images `[N, 3, S, S]`."""
        maps: list[torch.Tensor] = self.backbone(images)
        return maps

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 `[N, 3, S, S]` as the backbone wants them: float32, channels last."""
        mean = torch.tensor(self.mean).mul(255).view(3, 1, 1)
        std = torch.tensor(self.std).mul(255).view(3, 1, 1)
        pixels = images.contiguous(memory_format=torch.channels_last)
        return pixels.float().sub_(mean).div_(std)

    def cost(self, image_size: int) -> tuple[tuple[int, int], int]:
        """Patch positions (H, W) of an image, those of the largest feature map, and FLOPs of one
        image, two a multiply-add of convolutions and matrix products.

        Raises:
            InputError: The backbone does not take images of this size.
        """
        # Shapes and FLOPs need no arithmetic: a copy of the backbone without values does.
        backbone = features_model(
            self.timm_model,
            self.timm_kwargs,
            out_indices=[level.index for level in self.levels],
            device="meta",
        ).eval()
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                maps = backbone(torch.empty(1, 3, image_size, image_size, device="meta"))
        except (AssertionError, RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())[:160]
            raise InputError(
                f"timm:{self.timm_model} does not take images of {image_size} px: {line}"
            ) from error
        return max((int(m.shape[2]), int(m.shape[3])) for m in maps), counter.get_total_flops()

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
            mean=header["mean"],
            std=header["std"],
            provenance=header["provenance"],
        )
        try:
            subnet.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(f"the subnet's weights do not fit: {line}") from error
        return subnet.to(memory_format=torch.channels_last)


def features_model(
    name: str,
    kwargs: Mapping[str, Any],
    *,
    out_indices: Sequence[int] | None = None,
    pretrained: bool = False,
    device: str | None = None,
) -> nn.Module:
    """timm's feature extractor, without the stages behind the deepest of `out_indices`."""
    chosen: dict[str, Any] = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    with torch.device(device or "cpu"):
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, features_only=True, **chosen, **kwargs
        )
    if out_indices is not None:
        _drop_unused_stages(model)
    return model


def _drop_unused_stages(model: nn.Module) -> None:
    # Most of timm's extractors leave out what lies behind the last level. Those of the EfficientNet
    # and MobileNetV3 families keep all stages, in `blocks`, and run them.
    blocks = getattr(model, "blocks", None)
    names = model.feature_info.module_name()  # type: ignore[union-attr,operator]
    if isinstance(blocks, nn.Sequential):
        stages = [int(n.split(".")[1]) + 1 for n in names if n.startswith("blocks.")]
        model.blocks = blocks[: max(stages, default=0)]
