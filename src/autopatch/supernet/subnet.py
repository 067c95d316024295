"""Subnets: static modules that compute only the feature maps of selected levels."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.flop_counter import FlopCounterMode

from autopatch.errors import InputError, machine_failure, one_line
from autopatch.supernet.backbone import Level
from autopatch.supernet.batch_norm import BATCH_NORMS, Pair, fold_batch_norm, fold_found
from autopatch.supernet.float32 import in_float32
from autopatch.supernet.weights import check_channels


class Subnet(nn.Module):
    """A network that ends at the deepest selected level; frozen, in eval mode.

    Args:
        network: Computes a list of feature maps from normalized images.
        recipe: Argument of `build_network` for the same network; "network" is its name.
        levels: The selected levels, in order of depth.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
        provenance: Origin of the weights, on one line.

    Attributes:
        weights_sha256: `Supernet.weights_sha256` of the supernet that the subnet was extracted
            from; empty until it is set.
        folded: Convolutions, each with the batch norm that `fold` has folded into it.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        recipe: Mapping[str, Any],
        levels: Sequence[Level],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = dict(recipe)
        self.levels = tuple(levels)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.weights_sha256 = ""
        self.folded: tuple[Pair, ...] = ()
        # Buffers stay on the device; uploading them with each batch would wait for earlier batches.
        for name, values in (("pixel_mean", mean), ("pixel_std", std)):
            of_pixels = torch.tensor(values, dtype=torch.float32).mul(255).view(3, 1, 1)
            self.register_buffer(name, of_pixels)
        # The maps of Swin and a few other models are [N, H, W, C].
        self._channels_last_axis = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `[N, C_l, H_l, W_l]` of the levels for normalized images `[N, 3, S, S]`.
        Neither TF32 nor autocast is used, see `in_float32`."""
        with in_float32(images.device):
            return self._maps(self.network, images)

    def _maps(self, network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = network(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last_axis else maps

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_mean.device

    @property
    def name(self) -> str:
        """Name of the network."""
        return str(self.recipe["network"])

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Normalizes pixels, uint8 `[N, 3, S, S]` on the subnet's device. The result is
        channels-last and has the network's dtype."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"`images` is {images.dtype} of shape {list(images.shape)}, expected uint8 "
                "[N, 3, S, S]"
            )
        # In this layout, MobileNets run a third faster on a CPU, ResNets a fifth.
        pixels = images.contiguous(memory_format=torch.channels_last)
        return pixels.to(self.pixel_mean.dtype).sub_(self.pixel_mean).div_(self.pixel_std)

    def recalibrate(self, batches: Iterable[torch.Tensor]) -> None:
        """Recomputes the batch norm statistics from normalized images `[N, 3, S, S]`.

        They are the mean and variance of each batch, averaged over the batches, which should have
        the same size. The published supernets hold the statistics of their largest network. Cai et
        al. recompute them for each subnet; AutoPatch does not.

        Raises:
            ValueError: The subnet is already folded.
            InputError: A batch has only one value per channel, so it has no variance.
        """
        if self.folded:
            raise ValueError("the batch norm of a folded subnet cannot be recalibrated")
        self._unshare()
        try:
            with torch.no_grad():
                update_bn(batches, self)
        except InputError:  # from an image; it is also a ValueError
            raise
        except ValueError as error:
            raise InputError(f"batch norm cannot be recalibrated: {one_line(error)}") from error
        self.eval()

    def fold(self, image_size: int) -> None:
        """Folds batch norm into the convolutions; this cannot be undone. Results change only by
        rounding.

        Args:
            image_size: Side of the images that the network will run on, in pixels.
        """
        generator = torch.Generator("cpu").manual_seed(0)
        shape = (1, 3, image_size, image_size)
        image = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        image = image.to(self.device)
        with in_float32(self.device):
            network, pairs = fold_found(self.network, image)
        self._take_folded(network, pairs)

    def fold_pairs(self, pairs: Sequence[Pair]) -> None:
        """Folds the given pairs of convolution and batch norm; `fold` finds the pairs itself.

        Raises:
            ValueError: A pair does not name a convolution and a batch norm of the network.
        """
        self._take_folded(fold_batch_norm(self.network, pairs), pairs)

    def _take_folded(self, network: nn.Module, pairs: Sequence[Pair]) -> None:
        self.network = network.requires_grad_(False)
        self.folded += tuple(pairs)

    def trace(self, image_size: int) -> tuple[list[tuple[int, int]], int]:
        """Height and width of each feature map, and FLOPs per image: two for each multiply-add of a
        convolution or a matrix product.

        Raises:
            InputError: The network cannot run on images of this size.
        """
        network = _for_shapes(self.network)
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                images = torch.empty(1, 3, image_size, image_size, device="meta")
                maps = self._maps(network, images)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if machine_failure(error) is not None:
                raise
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

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self._unshare()
        names = [f"{prefix}network.{batch_norm}.running_mean" for _, batch_norm in self.folded]
        error_msgs += [
            f"the state has {name}, a batch norm that this subnet has folded into a convolution"
            for name in names
            if name in state_dict
        ]
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _unshare(self) -> None:
        """Copies the weights, which subnets of a timm supernet share."""
        self.network = copy.deepcopy(self.network)

    def to_header(self) -> dict[str, Any]:
        """Everything except the weights, as JSON values; see `restore_subnet`."""
        return {
            "recipe": self.recipe,
            "levels": [[level.index, level.stride, level.channels] for level in self.levels],
            "mean": list(self.mean),
            "std": list(self.std),
            "provenance": self.provenance,
            "weights_sha256": self.weights_sha256,
            "folded": [list(pair) for pair in self.folded],
        }

    def take_header(self, header: Mapping[str, Any]) -> None:
        """Takes over the facts about the weights from the `to_header()` of a subnet of the same
        network. The weights themselves are loaded separately."""
        self.mean = check_channels("mean", header["mean"])
        self.std = check_channels("std", header["std"])
        self.provenance = str(header["provenance"])
        self.weights_sha256 = str(header["weights_sha256"])

    def check_header(self, header: Mapping[str, Any]) -> None:
        """Raises ValueError if a header has another network, other levels or other folded pairs."""
        own = self.to_header()
        for key in ("recipe", "levels", "folded"):
            # Compared as JSON, which turns tuples into lists.
            found, expected = (json.dumps(h[key], sort_keys=True) for h in (header, own))
            if found != expected:
                raise ValueError(f"the state is of a subnet whose {key} is {found}, not {expected}")


def _for_shapes(network: nn.Module) -> nn.Module:
    """A copy of a network that has the same shapes and FLOPs, but no values.

    Batch norms return their input: they change no shape, and cost most of the time without values.
    """
    meta = torch.device("meta")
    tensors = (*network.parameters(), *network.buffers())
    copied = copy.deepcopy(network, {id(tensor): tensor.to(meta) for tensor in tensors})
    for part in copied.modules():
        if type(part) in BATCH_NORMS:
            part.forward = _unchanged
    return copied


def _unchanged(images: torch.Tensor) -> torch.Tensor:
    return images
