"""The memory bank: patch features of good images, and how far new ones are from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autopatch.kernels import NearestNeighborIndex, greedy_coreset, nearest_neighbors

MAX_CORESET_SAMPLE = 50_000
"""Patches the greedy coreset chooses from, at most: a random sample of all of them."""


class MemoryBank(nn.Module):
    """Patch features of good images.

    The screen that makes searches fast belongs to the bank's device. It is made anew where the
    module moves to another one and where `load_state_dict` replaces the bank, which may then have
    another number of rows. Nothing else may change the bank in place.

    Args:
        bank: Patch features, `[N, D]`, float32.

    Attributes:
        bank: The same, a buffer.
        screen: See `NearestNeighborIndex`; a buffer that is not saved.
    """

    bank: torch.Tensor
    screen: torch.Tensor | None

    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.register_buffer("screen", None, persistent=False)
        self._set(bank)

    @classmethod
    def fit(cls, patches: torch.Tensor, *, bank_size: int | None, seed: int = 0) -> MemoryBank:
        """Keeps `bank_size` of the patches, chosen by greedy coreset; all where it is None or there
        are no more than that.

        Args:
            patches: Features of good patches, `[M, D]`; the bank stays on their device.
            bank_size: Patches to keep, or None.
            seed: Of the first patch of the coreset.
        """
        if bank_size is None or bank_size >= len(patches):
            return cls(patches)
        indices, _ = greedy_coreset(patches, bank_size, seed=seed)
        return cls(patches[indices])

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Squared distance of each patch to its nearest neighbor in the bank.

        Args:
            patches: `[M, D]`, float32.

        Returns:
            `[M]`, float32.
        """
        index = NearestNeighborIndex.of_parts(self.bank, self.screen)
        distances: torch.Tensor = nearest_neighbors(patches, index)[0]
        return distances.squeeze(1)

    def __len__(self) -> int:
        return len(self.bank)

    def _set(self, bank: torch.Tensor) -> None:
        if bank.is_meta:
            self.bank, self.screen = bank, None
            return
        index = NearestNeighborIndex(bank)
        self.bank, self.screen = index.bank, index.screen

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MemoryBank:
        device = self.bank.device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.bank.device != device or self.bank.dtype != torch.float32:
            self._set(self.bank.float())
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        bank = state_dict.get(f"{prefix}bank")
        # A bank of other features is refused by the method of nn.Module.
        if isinstance(bank, torch.Tensor) and bank.shape[1:] == self.bank.shape[1:]:
            self._set(bank.detach().to(self.bank.device, torch.float32, copy=True))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def total_flops(backbone_flops: int, queries: int, bank_rows: int, channels: int) -> int:
    """FLOPs of one image: the backbone's, and two for each feature of each patch and bank row.

    That is the cost of a search which computes every distance, a measure that does not depend on
    the data; `nearest_neighbors` gets by with less.
    """
    return backbone_flops + 2 * queries * bank_rows * channels
