"""Coreset loops of other packages, for the benchmarks of the kernel and of whole detectors.

They take rows `[N, D]` and start with row 0. Their rounding differs from each other's and from
autopatch's.
"""

from __future__ import annotations

from typing import Protocol

import torch


class CoresetLoop(Protocol):
    """Greedy k-center selection; each call makes one pick."""

    count: int  # number of calls

    def __call__(self) -> None: ...

    def radius(self) -> torch.Tensor:
        """Distance of the farthest row from all picks except the last one."""


class AddmvLoop:
    """The fastest form in torch: expanded distances, with one matrix-vector product per pick."""

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
    """anomalib's loop, on random projections of the rows (its default) or on the rows
    themselves."""

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
