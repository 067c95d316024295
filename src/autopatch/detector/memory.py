"""The memory bank: patch features of good images, and distances to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autopatch.kernels import NearestNeighborIndex, greedy_coreset, nearest_neighbors

MAX_CORESET_SAMPLE = 50_000
"""Largest number of patches that the greedy coreset chooses from; of more, a sample is drawn."""


class MemoryBank(nn.Module):
    """Patch features of good images.

    Only `.to()` and `load_state_dict` may change a bank; `load_state_dict` may change its number of
    rows. Both replace bank and screen in one step, so other threads may search meanwhile.

    Args:
        bank: Patch features, `[N, D]`, float32.

    Attributes:
        bank: The patch features, a buffer.
        screen: `NearestNeighborIndex.screen` of the bank, a buffer that is not saved.
    """

    bank: torch.Tensor
    screen: torch.Tensor | None

    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("bank", None)
        self.register_buffer("screen", None, persistent=False)
        self._set(bank)

    @classmethod
    def fit(cls, patches: torch.Tensor, *, bank_size: int | None, seed: int = 0) -> MemoryBank:
        """Makes a bank of `bank_size` patches, chosen by greedy coreset.

        Args:
            patches: Features of good patches, `[M, D]`. The bank is on the same device.
            bank_size: Number of patches to keep; None, or M or more, keeps all.
            seed: Seed of the first patch of the coreset.
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
        buffers = self._buffers  # read once: another thread may replace them
        bank, screen = buffers["bank"], buffers["screen"]
        assert bank is not None
        index = NearestNeighborIndex.of_parts(bank, screen)
        distances: torch.Tensor = nearest_neighbors(patches, index)[0]
        return distances.squeeze(1)

    def __len__(self) -> int:
        return len(self.bank)

    def _set(self, bank: torch.Tensor) -> None:
        index = NearestNeighborIndex(bank)
        self._buffers = {"bank": index.bank, "screen": index.screen}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MemoryBank:
        before, bank = self.bank, fn(self.bank)
        if bank.device != before.device or bank.dtype != before.dtype:
            self._set(bank.float())  # the screen belongs to the bank's device
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}bank"
        bank = state_dict.get(key)
        # nn.Module refuses a bank with a different number of features.
        if isinstance(bank, torch.Tensor) and bank.shape[1:] == self.bank.shape[1:]:
            self._set(bank.detach().to(self.bank.device, torch.float32, copy=True))
            state_dict = {**state_dict, key: self.bank}  # nothing left to copy or assign
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def total_flops(backbone_flops: int, queries: int, bank_rows: int, channels: int) -> int:
    """FLOPs per image: backbone, plus two per channel for each pair of patch and bank row.

    All distances are counted, so that the figure does not depend on the data; `nearest_neighbors`
    skips some.
    """
    return backbone_flops + 2 * queries * bank_rows * channels
