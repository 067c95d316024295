"""The shots as known defects of a candidate, without an image's own patches when it is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from autopatch.data import Anomaly, Cells, Reading, Sample, read_mask
from autopatch.detector import (
    FittedHead,
    Known,
    KnownPatches,
    MemoryBank,
    batches_of,
    grid,
    images_at_a_time,
    mean_of_nearest,
    usual_distance,
)
from autopatch.files import absolute_path
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
            none = rows.new_empty((images, len(rows) // images, 0))
            defects = torch.cat([none, *(distances(shot.defects, 1) for shot in shots)], dim=2)
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
        return mean_of_nearest(torch.cat(good, dim=2).flatten(0, 1), neighbors)

    @classmethod
    def joined(cls, parts: Sequence[ShotDistances]) -> ShotDistances:
        """The distances of the images of all parts, one after another."""
        return cls(
            torch.cat([part.good for part in parts]),
            tuple(torch.cat(added) for added in zip(*(part.added for part in parts), strict=True)),
            torch.cat([part.defects for part in parts]),
        )

    def taken(self, images: Sequence[int]) -> ShotDistances:
        """The distances of some of the images, by their places."""
        places = torch.tensor(images).to(self.good.device)
        return ShotDistances(
            self.good[places], tuple(added[places] for added in self.added), self.defects[places]
        )

    def replaced(self, patches: torch.Tensor, other: ShotDistances) -> ShotDistances:
        """The distances with those of some patches replaced.

        Args:
            patches: Which ones, bool `[N, P]`.
            other: Their distances, in order, as those of one image.
        """

        def put(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            values[patches] = others[0]
            return values

        added = tuple(map(put, self.added, other.added))
        return ShotDistances(put(self.good, other.good), added, put(self.defects, other.defects))

    def _asked(self, known: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """The shots that some image is scored with, and which of them each is not."""
        asked = known.any(dim=0).nonzero().flatten().tolist()
        return asked, ~known[:, asked].to(self.good.device)


class Shots:
    """The shots of a search: anomalous images that a detector keeps as known defects.

    If the scored images include the shots, a shot is scored by a detector that knows all shots but
    itself and those of its group. So that their scores are comparable, each good image is then
    scored by a detector that lacks one shot too, in turn. If all shots are of one group, the scored
    images are scored without known defects.

    Synthetic anomalies, and the good images beside them, are scored by a detector that knows all
    shots: each kind is a type of anomaly that the detector has never seen. A transplant is scored
    by a detector that lacks the shot that it was taken from; the good images to compare it with are
    those among the scored images, which lack a shot too.

    Args:
        shots: The shots.
        scored: The images to score.
        synthetic: Synthetic anomalies to score, with the good images among `scored`, on which they
            are drawn.
        held_out: Good images outside the bank, which show the usual distances of good patches;
            needed with shots.
        reading: How masks become pixels.

    Attributes:
        searched: The images whose patches are searched: the scored ones, the other held-out ones,
            and the synthetic anomalies.
        images: The image of each score, a place among `searched`. The scored images come first,
            then the good ones among them again, then the synthetic anomalies. Without synthetic
            anomalies, only the scored images.
        known: Which shots each of `images` is scored with, bool `[V, S]`.
    """

    def __init__(
        self,
        shots: Sequence[Sample],
        scored: Sequence[Sample],
        reading: Reading,
        synthetic: Sequence[Anomaly] = (),
        held_out: Sequence[Sample] = (),
    ) -> None:
        real = list(dict.fromkeys([*scored, *held_out]))
        self.searched = [*real, *(anomaly.sample for anomaly in synthetic)]
        place_of = {absolute_path(sample.image): place for place, sample in enumerate(real)}
        self._sources = [place_of[absolute_path(anomaly.source.image)] for anomaly in synthetic]
        self._held_out = [place_of[absolute_path(sample.image)] for sample in held_out]
        self._masks = [read_mask(shot.mask, reading) for shot in shots if shot.mask is not None]
        self.images = list(range(len(scored)))
        left_out: list[frozenset[int]] = [frozenset()] * len(scored)
        among = {shot.image for shot in shots}
        if any(sample.image in among for sample in scored):
            left_out = _left_out(shots, scored)
        if synthetic:
            good = [place for place, sample in enumerate(scored) if not sample.label]
            self.images += [*good, *range(len(real), len(self.searched))]
            left_out += [frozenset()] * len(good)
            left_out += [_source(shots, anomaly) for anomaly in synthetic]
        self.known = torch.ones((len(left_out), len(shots)), dtype=torch.bool, device="cpu")
        for known, places in zip(self.known, left_out, strict=True):
            known[list(places)] = False
        if not self.known[: len(scored)].any(dim=1).all():
            self.known[: len(scored)] = False

    def __len__(self) -> int:
        return len(self._masks)

    def anomaly_maps(
        self,
        head: FittedHead,
        maps: Sequence[torch.Tensor],
        told: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Scores images by a head without known defects.

        Args:
            head: A head fitted on good images.
            maps: Feature maps of `searched`, one tensor per level.
            told: Called every few images with the number of images done, and their total.

        Returns:
            Anomaly maps `[V, size, size]` of `images`.
        """
        distances = self._distances(head, maps, (), told)
        neighbors = head.memory.neighbors

        def scores(views: slice) -> torch.Tensor:
            nothing = self.known[views, :0]
            return distances.taken(self.images[views]).means(nothing, neighbors=neighbors)

        return self._maps(head, maps, scores)

    def anomaly_maps_knowing(
        self,
        head: FittedHead,
        maps: Sequence[torch.Tensor],
        shots: Sequence[torch.Tensor],
        told: Callable[[int, int], None] | None = None,
    ) -> tuple[FittedHead, torch.Tensor]:
        """Adds the shots to a head and scores images.

        Args:
            head: A head fitted on good images.
            maps: See `anomaly_maps`.
            shots: Feature maps of the shots.
            told: See `anomaly_maps`.

        Returns:
            The head that knows all shots, and anomaly maps `[V, size, size]` of `images`, each by a
            head without the image's own patches.
        """
        patches = self.patches(head, shots)
        distances = self._distances(head, maps, patches, told)
        neighbors = head.memory.neighbors
        knowing = head.knowing(*Known((), patches).joined(head.memory.bank))
        every = torch.ones((len(self._held_out), len(self)), dtype=torch.bool, device="cpu")
        held_out = distances.taken(self._held_out).means(every, neighbors=neighbors)
        usual = usual_distance(held_out)
        knowing.defects.usual = usual

        def scores(views: slice) -> torch.Tensor:
            known, of_views = self.known[views], distances.taken(self.images[views])
            found = of_views.means(known, neighbors=neighbors).reshape(len(known), -1)
            knows = known.any(dim=1)
            if knows.any():
                places = knows.nonzero().flatten().tolist()
                found[torch.tensor(places).to(found.device)] = (
                    of_views.taken(places)
                    .scores(
                        known[places],
                        neighbors=neighbors,
                        weight=knowing.defects.weight,
                        usual=usual,
                    )
                    .reshape(len(places), -1)
                )
            return found.flatten()

        return knowing, self._maps(knowing, maps, scores)

    def _distances(
        self,
        head: FittedHead,
        maps: Sequence[torch.Tensor],
        patches: Sequence[KnownPatches],
        told: Callable[[int, int], None] | None,
    ) -> ShotDistances:
        """Searches the patches of all images.

        A patch of a synthetic anomaly that equals the one of its source at the same place has the
        same distances. It is not searched again; with strides of 4 these are four of five patches.
        """

        def of(rows: torch.Tensor, images: int) -> ShotDistances:
            return ShotDistances.of(rows, images, head.memory, patches, head.memory.neighbors)

        real, done = len(self.searched) - len(self._sources), 0
        found: list[ShotDistances] = []
        for batch in head.batches([m[:real] for m in maps]):
            found.append(of(head.aggregator(batch), len(batch[0])))
            done += len(batch[0])
            if told is not None:
                told(done, len(self.searched))
        if not self._sources:
            return ShotDistances.joined(found)
        searched = ShotDistances.joined(found)
        for batch in head.batches([m[real:] for m in maps]):
            sources = self._sources[done - real :][: len(batch[0])]
            rows: torch.Tensor = head.aggregator(batch)
            changed = (rows != head.aggregator(_taken(maps, sources))).any(dim=1)
            distances = searched.taken(sources)
            if changed.any():
                others = of(rows[changed], 1)
                distances = distances.replaced(changed.reshape(len(sources), -1), others)
            found.append(distances)
            done += len(batch[0])
            if told is not None:
                told(done, len(self.searched))
        return ShotDistances.joined(found)

    def _maps(
        self,
        head: FittedHead,
        maps: Sequence[torch.Tensor],
        scores: Callable[[slice], torch.Tensor],
    ) -> torch.Tensor:
        """The anomaly maps of `images` from the scores of their patches."""
        height, width = grid(maps)
        at_a_time = images_at_a_time(maps[0].device)
        found = []
        for first in range(0, len(self.images), at_a_time):
            views = slice(first, first + at_a_time)
            places = self.images[views]
            # Only steps on scores look at features.
            if len(head.score_steps):
                rows: torch.Tensor = head.aggregator(_taken(maps, places))
            else:
                rows = maps[0].new_empty((len(places) * height * width, 0))
            features = rows.reshape(len(places), height, width, rows.shape[1])
            found.append(head.maps_of(features, scores(views)))
        return torch.cat(found)

    def chosen(self, values: torch.Tensor) -> torch.Tensor:
        """The values of `images`, `[V, ...]`.

        Args:
            values: One for each of `searched`.
        """
        return values[torch.tensor(self.images).to(values.device)]

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


def _taken(maps: Sequence[torch.Tensor], images: Sequence[int]) -> list[torch.Tensor]:
    """The maps of some images."""
    places = torch.tensor(images).to(maps[0].device)
    return [m[places] for m in maps]


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


def _source(shots: Sequence[Sample], anomaly: Anomaly) -> frozenset[int]:
    """The shots that a synthetic anomaly was taken from, by index."""
    if anomaly.shot is None:
        return frozenset()
    return frozenset(i for i, shot in enumerate(shots) if _is_same(anomaly.shot, shot))


def _is_same(one: Sample, other: Sample) -> bool:
    """Whether two images show the same part."""
    same = absolute_path(one.image) == absolute_path(other.image)
    return same or (one.group is not None and one.group == other.group)
