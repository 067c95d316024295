"""Memory banks: patch features, and distances to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autopatch.kernels import NearestNeighborIndex, mean_distances


class MemoryBank(nn.Module):
    """Patch features, and mean distances to the nearest of them.

    Only `.to()` and `load_state_dict` may change a bank; `load_state_dict` may change its number of
    rows. Both replace bank and screen in one step, so other threads may search meanwhile.

    Args:
        bank: Patch features, `[N, D]`, float32. N may be 0; such a bank cannot be searched.
        neighbors: Number of nearest rows whose distances are averaged; all if there are fewer.

    Attributes:
        bank: The patch features, a buffer.
        screen: `NearestNeighborIndex.screen` of the bank, a buffer that is not saved.
        neighbors: See above.
    """

    bank: torch.Tensor
    screen: torch.Tensor | None

    def __init__(self, bank: torch.Tensor, *, neighbors: int = 1) -> None:
        super().__init__()
        self.neighbors = neighbors
        self.register_buffer("bank", None)
        self.register_buffer("screen", None, persistent=False)
        self._set(bank)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of each patch to its nearest neighbors in the bank.

        Args:
            patches: `[M, D]`, float32.

        Returns:
            `[M]`, float32.
        """
        distances: torch.Tensor = mean_distances(patches, self.index, self.neighbors)
        return distances

    @property
    def index(self) -> NearestNeighborIndex:
        """The bank and its screen."""
        buffers = self._buffers  # read once: another thread may replace them
        bank, screen = buffers["bank"], buffers["screen"]
        assert bank is not None
        return NearestNeighborIndex.of_parts(bank, screen)

    def __len__(self) -> int:
        return len(self.bank)

    def _set(self, bank: torch.Tensor) -> None:
        if len(bank):
            index = NearestNeighborIndex(bank)
            self._buffers = {"bank": index.bank, "screen": index.screen}
        else:
            self._buffers = {"bank": bank, "screen": None}

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


def total_flops(backbone_flops: int, queries: int, rows: int, features: int) -> int:
    """FLOPs per image: backbone, plus two per feature for each pair of patch and row of the banks.

    All distances are counted, so that the figure does not depend on the data; `nearest_neighbors`
    skips some.
    """
    return backbone_flops + 2 * queries * rows * features
