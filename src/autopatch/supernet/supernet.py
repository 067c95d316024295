"""The interface of a supernet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, TypeAlias

import torch
from torch import nn

from autopatch.errors import InputError
from autopatch.genes import Choice, Gene
from autopatch.supernet.backbone import Backbone, Level, Segment
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.weights import tensors_sha256

Layers: TypeAlias = Callable[[torch.Tensor], list[torch.Tensor]]
"""The layers of a segment: compute its maps from normalized images or from the map before it."""


def single_map(layers: nn.Module) -> Layers:
    """The layers of a segment that gives one map."""
    return lambda images: [layers(images)]


@dataclass(frozen=True)
class Preset:
    """Settings of a search of a supernet.

    Attributes:
        cost: Name of the objective that is the cost.
        rule: Name of the rule that judges and picks candidates.
        choices: Choices by field; other fields have their default choices.
        own: Fields whose choices the user cannot change.
        fix_single_choices: Whether fields of the whole architecture with a single choice get no
            gene.
        optional_genes: Whether the space has the genes of the head that can be off, with their
            default choices.
        from_baseline: Whether the search begins with the PatchCore baseline and its variants.
        mask_resize: Rule for resizing masks, see `autopatch.data.Reading`; None for the split's.
        remarks: Function that returns notes for the user, one line each. Its arguments are the
            values that no gene sets, by "part.field", and the name of the sampler.
    """

    cost: str = "latency"
    rule: str = "robust"
    choices: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    fix_single_choices: bool = False
    optional_genes: bool = True
    from_baseline: bool = True
    mask_resize: str | None = None
    remarks: Callable[[Mapping[str, Choice], str], Sequence[str]] = lambda fixed, sampler: ()


class Supernet(ABC):
    """One set of weights for many subnets.

    Args:
        name: Name of the search space.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
        provenance: Origin of the weights, on one line.
        random_features: Whether the weights are random.
        recalibrate_batch_norm: Whether the batch norm statistics of each subnet are recomputed from
            the good images before it is used.

    Attributes:
        networks: Names of its networks; each backbone has one of them.
        presets: Search presets by name; there is always a "default".
    """

    presets: ClassVar[Mapping[str, Preset]] = {"default": Preset()}

    def __init__(
        self,
        name: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: str,
        random_features: bool,
        recalibrate_batch_norm: bool = False,
    ) -> None:
        self.name = name
        self.networks: tuple[str, ...] = (name,)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.provenance = provenance
        self.random_features = random_features
        self.recalibrate_batch_norm = recalibrate_batch_norm
        self._grids: dict[tuple[str, int], dict[int, tuple[int, int]]] = {}
        self._flops: dict[tuple[Backbone, int], int] = {}

    @abstractmethod
    def genes(self) -> list[Gene]:
        """Genes of the backbone: genes of the whole network first, then the genes of each level in
        order of depth."""

    @abstractmethod
    def all_levels(self, network: str) -> tuple[Level, ...]:
        """The levels of a network that can be selected, in order of depth."""

    @abstractmethod
    def largest(self, levels: Sequence[int] | None = None) -> Backbone:
        """The largest subnet.

        Args:
            levels: Indices of its levels; None selects all.
        """

    @abstractmethod
    def check(self, backbone: Backbone) -> None:
        """Raises InputError unless the backbone is a subnet of this supernet."""

    @abstractmethod
    def get_active_subnet(self, backbone: Backbone) -> Subnet:
        """Extracts the static module of a subnet.

        Raises:
            InputError: See `check`.
        """

    def weights(self) -> Mapping[str, torch.Tensor]:
        """All weights by name. By default these are the weights of the largest subnets; families
        with further weights override this."""
        found = {}
        for network in self.networks:
            largest = self.get_active_subnet(replace(self.largest(), network=network)).network
            found.update({f"{network}.{key}": v for key, v in largest.state_dict().items()})
        return found

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of all weights. It does not depend on their file; see `tensors_sha256`."""
        return tensors_sha256(self.weights())

    def shared(self, backbone: Backbone) -> Backbone:
        """The backbone whose feature maps are computed and cached in place of this one's. They
        must include all feature maps of this backbone.

        Backbones with the same shared backbone use the same cached maps. By default this is the
        backbone itself. See `segments` for subnets that have only their first layers in common.
        """
        return backbone

    def segments(self, backbone: Backbone) -> tuple[Segment, ...]:
        """The segments of a subnet, up to its deepest level. Subnets whose first segments have
        equal keys share the maps of these segments.

        By default this is a single segment, which only equal backbones have in common.
        """
        return (Segment(backbone.levels, backbone),)

    def split(self, backbone: Backbone, subnet: Subnet) -> Sequence[Layers]:
        """The layers of each of a backbone's `segments`.

        Args:
            backbone: The backbone.
            subnet: Its subnet, which may be folded.
        """
        return (subnet,)

    def stages(self, backbone: Backbone) -> tuple[str, ...]:
        """The stages that run, in order, in words that name all that their cost depends on: stages
        with the same words cost the same in every backbone.

        By default there is one stage for each level up to the deepest selected one, and the words
        are the values of the setting for it.
        """
        deepest = backbone.levels[-1]
        places = [lv.index for lv in self.all_levels(backbone.network) if lv.index <= deepest]
        words = []
        for number, index in enumerate(places):
            values = [
                f"{name} {value[number] if len(value) == len(places) else value}"
                if isinstance(value, tuple)
                else f"{name} {value}"
                for name, value in backbone.setting.items()
            ]
            words.append(", ".join([f"{backbone.network} level {index}", *values]))
        return tuple(words)

    def describe(self, backbone: Backbone) -> str:
        """A short description of the setting, without the levels; empty without a setting."""
        return ""

    def level_names(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the selected levels, such as "stride 8"."""
        return tuple(f"stride {level.stride}" for level in self.levels(backbone))

    def levels(self, backbone: Backbone) -> tuple[Level, ...]:
        """The selected levels of a backbone."""
        self.check_network(backbone)
        known = {level.index: level for level in self.all_levels(backbone.network)}
        for index in backbone.levels:
            if index not in known:
                raise InputError(
                    f"{backbone.network} has no level {index}, expected one of "
                    f"{', '.join(map(str, known))}"
                )
        return tuple(known[index] for index in backbone.levels)

    def grid(self, backbone: Backbone, image_size: int) -> tuple[int, int]:
        """Patch positions (H, W) per image: the size of the largest selected feature map.

        Raises:
            InputError: The backbone cannot run on images of this size.
        """
        grids = self.grids(backbone.network, image_size)
        return max(grids[level.index] for level in self.levels(backbone))

    def grids(self, network: str, image_size: int) -> dict[int, tuple[int, int]]:
        """Height and width of the feature map at every level of a network, by level index.

        Raises:
            InputError: The network cannot run on images of this size.
        """
        key = network, image_size
        if key not in self._grids:
            whole = replace(self.largest(), network=network)
            sizes, flops = self.get_active_subnet(whole).trace(image_size)
            self._flops[_up_to_its_deepest(whole), image_size] = flops
            self._grids[key] = dict(zip(whole.levels, sizes, strict=True))
        return self._grids[key]

    def flops(self, backbone: Backbone, image_size: int) -> int:
        """FLOPs of a subnet per image: two for each multiply-add of a convolution or a matrix
        product.

        Raises:
            InputError: See `check`, or the backbone cannot run on images of this size.
        """
        self.check(backbone)
        key = _up_to_its_deepest(backbone), image_size
        if key not in self._flops:
            _, self._flops[key] = self.get_active_subnet(key[0]).trace(image_size)
        return self._flops[key]

    def require_image_size(self, image_size: int) -> None:
        """Raises InputError unless all feature maps are at least 2 x 2 for images of this size."""
        for network in self.networks:
            grids = self.grids(network, image_size)
            for level in self.all_levels(network):
                if min(grids[level.index]) < 2:
                    raise InputError(
                        f"image size {image_size}: the map of stride {level.stride} is "
                        f"{min(grids[level.index])} wide, expected at least 2; choose larger images"
                    )

    def patchcore(self) -> Backbone | None:
        """PatchCore's usual choice: the levels of stride 8 and 16, see `of_strides`.

        Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
        """
        return self.of_strides((8, 16))

    def of_strides(self, strides: Sequence[int]) -> Backbone | None:
        """The largest subnet with its deepest level of each stride. None if one has no level."""
        deepest = {level.stride: level.index for level in self.all_levels(self.largest().network)}
        if not deepest.keys() >= set(strides):
            return None
        return self.largest(sorted(deepest[stride] for stride in strides))

    def check_network(self, backbone: Backbone) -> None:
        """Raises InputError unless the backbone belongs to one of these networks."""
        if backbone.network not in self.networks:
            raise InputError(
                f"the architecture is of {backbone.network}, the backbone is "
                f"{' or '.join(self.networks)}"
            )


def _up_to_its_deepest(backbone: Backbone) -> Backbone:
    """The backbone with its deepest level alone: all layers before that level run all the same."""
    return replace(backbone, levels=backbone.levels[-1:])
