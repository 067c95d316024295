"""Coreset loops of other packages, for the benchmarks of the kernel and of whole detectors.

They take rows `[N, D]`, begin with row 0 and round differently from each other and from ours.
"""

from __future__ import annotations

from typing import Protocol

import torch


class CoresetLoop(Protocol):
    """Greedy k-center, a pick a call."""

    count: int  # of calls

    def __call__(self) -> None: ...

    def radius(self) -> torch.Tensor:
        """Distance from the picks so far, but the last, to the row farthest from them."""


class AddmvLoop:
    """The fastest of torch's ways: distances in expanded form, one matrix-vector product a pick."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.norms = rows.square().sum(dim=1)
        self.nearest = torch.full_like(self.norms, torch.inf)
        self.last = 0
        self.count = 0

    def __call__(self) -> None:
        center = self.rows[self.last]
        distances = torch.addmv(self.norms, self.rows, center, alpha=-2) + self.norms[self.last]
        torch.minimum(self.nearest, distances, out=self.nearest)
        self.last = int(self.nearest.argmax())
        self.count += 1

    def radius(self) -> torch.Tensor:
        return self.nearest.max().clamp(min=0).sqrt()


class AnomalibLoop:
    """anomalib's, on random projections of the rows as is its default, or on the rows."""

    def __init__(self, rows: torch.Tensor, *, projects: bool) -> None:
        from anomalib.models.components.sampling import KCenterGreedy

        self.sampler = KCenterGreedy(rows, sampling_ratio=0.1)
        self.sampler.features = rows
        if projects:
            self.sampler.model.fit(rows)
            self.sampler.features = self.sampler.model.transform(rows)
        self.last = torch.tensor(0)
        self.count = 0

    def __call__(self) -> None:
        self.sampler.update_distances(self.last)
        self.last = self.sampler.get_new_idx()
        self.count += 1

    def radius(self) -> torch.Tensor:
        return self.sampler.min_distances.max()
