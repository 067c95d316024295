"""The shots as known defects of a candidate, without an image's own patches when it is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from autopatch.data import Cells, Reading, Sample, read_mask
from autopatch.detector import FittedHead, Known, KnownPatches, batches_of, grid, usual_distance
from autopatch.kernels import combined_scores, nearest_neighbors


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
    """

    def __init__(self, shots: Sequence[Sample], scored: Sequence[Sample], reading: Reading) -> None:
        self._masks = [read_mask(shot.mask, reading) for shot in shots if shot.mask is not None]
        known = {shot.image for shot in shots}
        self._left_out: list[frozenset[int]] | None = None
        if any(sample.image in known for sample in scored):
            self._left_out = _left_out(shots, scored)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def can_be_scored(self) -> bool:
        """Whether every scored image leaves at least one shot."""
        return all(len(left_out) < len(self) for left_out in self._left_out or ())

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
        patches = self._patches(head, shots)
        knowing = head.knowing(*Known((), patches).joined(head.memory.bank))
        distances = [knowing.memory(head.aggregator(maps)) for maps in batches_of(held_out)]
        knowing.defects.usual = usual_distance(torch.cat(distances))
        if self._left_out is None:
            return knowing, knowing.anomaly_maps(scored, told)
        if not self.can_be_scored:
            return knowing, head.anomaly_maps(scored, told)
        maps = []
        done = 0
        for batch in batches_of(scored):
            left_out = self._left_out[done : done + len(batch[0])]
            maps.append(_anomaly_maps(knowing, head, patches, batch, left_out))
            done += len(batch[0])
            if told is not None:
                told(done, len(scored[0]))
        return knowing, torch.cat(maps)

    def _patches(self, head: FittedHead, shots: Sequence[torch.Tensor]) -> tuple[KnownPatches, ...]:
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


def _anomaly_maps(
    knowing: FittedHead,
    head: FittedHead,
    patches: Sequence[KnownPatches],
    maps: Sequence[torch.Tensor],
    left_out: Sequence[frozenset[int]],
) -> torch.Tensor:
    """Anomaly maps of a batch of images, each without the patches of some shots.

    Args:
        knowing: The head that knows all shots.
        head: The head that knows none.
        patches: The patches that each shot adds.
        maps: Feature maps of the images.
        left_out: The shots that are left out for each image, by index.
    """
    height, width = grid(maps)
    rows: torch.Tensor = head.aggregator(maps)
    images = len(left_out)

    def distances(bank: torch.Tensor, neighbors: int, lacking: Sequence[bool]) -> torch.Tensor:
        """Distances to the nearest rows of a bank `[M, k]`; infinite for images that lack it."""
        found: torch.Tensor = nearest_neighbors(rows, bank, min(neighbors, len(bank)))[0]
        mask = torch.tensor(lacking).to(found.device)
        found = found.reshape(images, height * width, -1)
        return found.masked_fill(mask[:, None, None], torch.inf).flatten(0, 1)

    neighbors = head.memory.neighbors
    good = [nearest_neighbors(rows, head.memory.index, min(neighbors, len(head.memory)))[0]]
    defects = []
    for index, of_shot in enumerate(patches):
        lacking = [index in each for each in left_out]
        if len(of_shot.good):
            good.append(distances(of_shot.good, neighbors, lacking))
        defects.append(distances(of_shot.defects, 1, lacking))
    nearest = torch.cat(good, dim=1).sort(dim=1).values[:, :neighbors]
    scores = combined_scores(
        nearest.mean(dim=1, dtype=torch.float64).float(),
        torch.cat(defects, dim=1).amin(dim=1),
        weight=knowing.defects.weight,
        usual=knowing.defects.usual,
    )
    return knowing.maps_of(rows.reshape(images, height, width, -1), scores)
