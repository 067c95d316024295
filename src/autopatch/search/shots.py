"""The shots as known defects of a candidate, without an image's own patches when it is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from autopatch.data import Cells, Reading, Sample, read_mask
from autopatch.detector import (
    FittedHead,
    Known,
    KnownPatches,
    MemoryBank,
    batches_of,
    grid,
    usual_distance,
)
from autopatch.kernels import NearestNeighborIndex, combined_scores, nearest_neighbors


@dataclass(frozen=True)
class ShotDistances:
    """Squared distances of patches to the nearest rows of a bank and, apart, to those of each shot.

    Attributes:
        good: Distances to rows of the bank, `[N, P, k]` for N images of P patches, ascending.
        added: Distances to good rows of each shot, `[N, P, k_s]`, ascending; k_s may be 0.
        defects: Distances to the nearest defect row of each shot, `[N, P, S]`.
    """

    good: torch.Tensor
    added: tuple[torch.Tensor, ...]
    defects: torch.Tensor

    @classmethod
    def of(
        cls,
        rows: torch.Tensor,
        images: int,
        memory: MemoryBank,
        shots: Sequence[KnownPatches],
        neighbors: int,
        *,
        defects: torch.Tensor | None = None,
    ) -> ShotDistances:
        """Searches the patches of images.

        Args:
            rows: Patch features, `[N * P, D]`.
            images: N.
            memory: The bank.
            shots: The rows that each shot adds.
            neighbors: Largest number of good rows whose distances are asked for.
            defects: Distances to the defect rows, if they were searched already.
        """

        def distances(bank: torch.Tensor | NearestNeighborIndex, k: int) -> torch.Tensor:
            found: torch.Tensor = nearest_neighbors(rows, bank, k)[0] if k else rows[:, :0]
            return found.reshape(images, len(rows) // images, k)

        if defects is None:
            defects = torch.cat([distances(shot.defects, 1) for shot in shots], dim=2)
        return cls(
            distances(memory.index, min(neighbors, len(memory))),
            tuple(distances(shot.good, min(neighbors, len(shot.good))) for shot in shots),
            defects,
        )

    def scores(
        self, known: torch.Tensor, *, neighbors: int, weight: float, usual: float
    ) -> torch.Tensor:
        """Scores of the patches, see `autopatch.kernels.defect_scores`.

        Args:
            known: Which shots each image is scored with, bool `[N, S]`, on the CPU.
            neighbors: Number of nearest good rows whose distances are averaged.
            weight: Weight of known defects.
            usual: Usual distance of good patches.

        Returns:
            `[N * P]`, float32.
        """
        asked, unknown = self._asked(known)
        places = torch.tensor(asked).to(self.defects.device)
        defects = self.defects[..., places].masked_fill(unknown[:, None], torch.inf)
        return combined_scores(
            self.means(known, neighbors=neighbors),
            defects.flatten(0, 1).amin(dim=1),
            weight=weight,
            usual=usual,
        )

    def means(self, known: torch.Tensor, *, neighbors: int) -> torch.Tensor:
        """Mean distances of the patches to their nearest good rows, `[N * P]`, float32; see
        `scores`."""
        asked, unknown = self._asked(known)
        good = [self.good[..., :neighbors]]
        for place, index in enumerate(asked):
            added = self.added[index][..., :neighbors]
            good.append(added.masked_fill(unknown[:, place, None, None], torch.inf))
        nearest = torch.cat(good, dim=2).flatten(0, 1)
        if nearest.shape[1] > neighbors:
            nearest = nearest.topk(neighbors, largest=False).values
        return nearest.mean(dim=1, dtype=torch.float64).float()

    def _asked(self, known: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """The shots that some image is scored with, and which of them each is not."""
        asked = known.any(dim=0).nonzero().flatten().tolist()
        return asked, ~known[:, asked].to(self.good.device)


class Shots:
    """The shots of a search: anomalous images that a detector keeps as known defects.

    If the scored images include the shots, a shot is scored by a detector that knows all shots but
    itself and those of its group. So that their scores are comparable, each good image is then
    scored by a detector that lacks one shot too, in turn. If the shots of one image are all that
    there are, no image is scored with known defects, since none can be left.

    Args:
        shots: The shots.
        scored: The images to score.
        reading: How masks become pixels.

    Attributes:
        known: Which shots each scored image is scored with, bool `[N, S]`.
    """

    def __init__(self, shots: Sequence[Sample], scored: Sequence[Sample], reading: Reading) -> None:
        self._masks = [read_mask(shot.mask, reading) for shot in shots if shot.mask is not None]
        self.known = torch.ones((len(scored), len(shots)), dtype=torch.bool, device="cpu")
        among = {shot.image for shot in shots}
        if any(sample.image in among for sample in scored):
            for known, left_out in zip(self.known, _left_out(shots, scored), strict=True):
                known[list(left_out)] = False

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def can_be_scored(self) -> bool:
        """Whether every scored image leaves at least one shot."""
        return bool(self.known.any(dim=1).all())

    def anomaly_maps(
        self,
        head: FittedHead,
        scored: Sequence[torch.Tensor],
        shots: Sequence[torch.Tensor],
        held_out: Sequence[torch.Tensor],
        told: Callable[[int, int], None] | None = None,
    ) -> tuple[FittedHead, torch.Tensor]:
        """Adds the shots to a head and scores images.

        Args:
            head: A head fitted on good images.
            scored: Feature maps of the images to score, one tensor per level.
            shots: Feature maps of the shots.
            held_out: Feature maps of good images that the head was not fitted on.
            told: Called every few images with the number of images done, and their total.

        Returns:
            The head that knows all shots, and anomaly maps `[N, size, size]` of the scored images,
            each by a head without the image's own patches.
        """
        patches = self.patches(head, shots)
        knowing = head.knowing(*Known((), patches).joined(head.memory.bank))
        distances = [knowing.memory(head.aggregator(maps)) for maps in batches_of(held_out)]
        knowing.defects.usual = usual_distance(torch.cat(distances))
        if self.known.all():
            return knowing, knowing.anomaly_maps(scored, told)
        if not self.can_be_scored:
            return knowing, head.anomaly_maps(scored, told)
        height, width = grid(scored)
        neighbors = head.memory.neighbors
        maps = []
        done = 0
        for batch in batches_of(scored):
            rows: torch.Tensor = head.aggregator(batch)
            images = len(batch[0])
            found = ShotDistances.of(rows, images, head.memory, patches, neighbors)
            scores = found.scores(
                self.known[done : done + images],
                neighbors=neighbors,
                weight=knowing.defects.weight,
                usual=knowing.defects.usual,
            )
            maps.append(knowing.maps_of(rows.reshape(images, height, width, -1), scores))
            done += images
            if told is not None:
                told(done, len(scored[0]))
        return knowing, torch.cat(maps)

    def patches(self, head: FittedHead, shots: Sequence[torch.Tensor]) -> tuple[KnownPatches, ...]:
        """The rows that each shot adds to a head.

        Args:
            head: A head fitted on good images.
            shots: Feature maps of the shots.
        """
        height, width = grid(shots)
        found: list[KnownPatches] = []
        for maps in batches_of(shots):
            for rows in head.aggregator(maps).split(height * width):
                cells = Cells.of(self._masks[len(found)], height, width)
                found.append(KnownPatches.of(rows, cells, head.memory, head.radius))
        return tuple(found)


def can_be_left_out(shots: Sequence[Sample]) -> bool:
    """Whether each shot can be scored by a detector that knows another one."""
    return all(len(left_out) < len(shots) for left_out in _left_out(shots, shots))


def _left_out(shots: Sequence[Sample], scored: Sequence[Sample]) -> list[frozenset[int]]:
    """The shots that are left out for each scored image, by index."""
    found = []
    good = 0
    for sample in scored:
        if sample.label:
            left_out = {index for index, shot in enumerate(shots) if _is_same(sample, shot)}
        else:
            left_out = {
                index
                for index, shot in enumerate(shots)
                if _is_same(shots[good % len(shots)], shot)
            }
            good += 1
        found.append(frozenset(left_out))
    return found


def _is_same(one: Sample, other: Sample) -> bool:
    """Whether two images show the same part."""
    return one.image == other.image or (one.group is not None and one.group == other.group)
