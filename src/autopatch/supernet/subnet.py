"""Subnets: static modules that give the feature maps of chosen levels and run nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.flop_counter import FlopCounterMode

from autopatch.errors import InputError, one_line
from autopatch.supernet.architecture import Level, check_image_size
from autopatch.supernet.backbone import build_backbone
from autopatch.supernet.batch_norm import fold_batch_norm
from autopatch.supernet.weights import check_channels


class Subnet(nn.Module):
    """A backbone cut after the deepest of the chosen levels; frozen, in eval mode.

    Args:
        backbone: Gives a list of feature maps for normalized images.
        recipe: What `build_backbone` makes the same backbone from; its "supernet" is the name.
        levels: The levels taken, in order of depth.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        provenance: One line that says where the weights come from.
    """

    _mean_of_pixels: torch.Tensor
    _std_of_pixels: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        recipe: Mapping[str, Any],
        levels: Sequence[Level],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.recipe = dict(recipe)
        self.levels = tuple(levels)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        # On the device from the start: an upload in each batch would wait for those before it.
        for name, values in (("_mean_of_pixels", mean), ("_std_of_pixels", std)):
            of_pixels = torch.tensor(values, dtype=torch.float32).mul(255).view(3, 1, 1)
            self.register_buffer(name, of_pixels, persistent=False)
        # Swin and a few others give their maps as [N, H, W, C].
        self._channels_last_axis = str(getattr(backbone, "output_fmt", "")).endswith("NHWC")
        # What runs, from the first call on; in a tuple, as it is no part of the state.
        self._folded: tuple[nn.Module, ...] = ()
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `[N, C_l, H_l, W_l]` of the levels for normalized images `[N, 3, S, S]`.

        What runs is a copy with batch norm folded: from the first call on, the weights must not
        change but by `recalibrate`, and hooks inside `backbone` fire only if that is called itself.
        """
        if self.training:
            return self._run(self.backbone, images)
        if not self._folded:
            generator = torch.Generator().manual_seed(0)
            image = torch.randn(1, *images.shape[1:], generator=generator).to(
                images.device, images.dtype
            )
            self._folded = (fold_batch_norm(self.backbone, image),)
        return self._run(self._folded[0], images)

    def _run(self, backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = backbone(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last_axis else maps

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def name(self) -> str:
        """The supernet's."""
        return str(self.recipe["supernet"])

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 `[N, 3, S, S]`, on the subnet's device, as the backbone wants them: float32,
        channels last."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"`images` is {images.dtype} of shape {list(images.shape)}, expected uint8 "
                "[N, 3, S, S]"
            )
        # MobileNets run a third faster on a CPU in this layout, ResNets a fifth.
        pixels = images.contiguous(memory_format=torch.channels_last)
        return pixels.float().sub_(self._mean_of_pixels).div_(self._std_of_pixels)

    def recalibrate(self, batches: Iterable[torch.Tensor]) -> None:
        """Replaces the statistics of batch norm by those of normalized images `[N, 3, S, S]`: the
        mean over the batches of each one's mean and variance, so batches should be of one size.

        The published supernets hold the statistics of their largest network; Cai et al. recompute
        them for each subnet, AutoPatch does not. The subnet must have its weights for itself.

        Raises:
            InputError: A batch has a single value for a channel, which has no variance.
        """
        try:
            with torch.no_grad():
                update_bn(batches, self)
        except InputError:  # a ValueError that says more, of an image
            raise
        except ValueError as error:
            raise InputError(f"batch norm cannot be recalibrated: {one_line(error)}") from error
        self.eval()
        self._folded = ()

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
        # Shapes and FLOPs need no arithmetic: a copy of the backbone without values does.
        backbone = copy.deepcopy(self.backbone).to("meta")
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                images = torch.empty(1, 3, image_size, image_size, device="meta")
                maps = self._run(backbone, images)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.name} does not take images of {image_size} px: {one_line(error)}"
            ) from error
        for level, feature_map in zip(self.levels, maps, strict=True):
            if feature_map.ndim != 4 or feature_map.shape[1] != level.channels:
                raise InputError(
                    f"{self.name}: level {level.index} gives {list(feature_map.shape)}, "
                    f"expected [1, {level.channels}, H, W]"
                )
        sizes = [(int(m.shape[2]), int(m.shape[3])) for m in maps]
        return sizes, int(counter.get_total_flops())

    def to_header(self) -> dict[str, Any]:
        """All but the weights, as values that JSON can hold."""
        return {
            "recipe": self.recipe,
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
            build_backbone(header["recipe"]),
            header["recipe"],
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
