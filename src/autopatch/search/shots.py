"""The shots as known defects of a candidate, without an image's own patches when it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    scored by a detector that lacks one shot too, in turn. If the shots of one image are all that
    there are, no scored image is scored with known defects, since none can be left.

    Synthetic anomalies, and the good images beside them, are scored by a detector that knows all
    shots: each kind is a type of anomaly that the detector has never seen. A transplant is scored
    by a detector that lacks the shot that it was taken from; the good images to compare it with are
    those among the scored images, which lack a shot too.

    Args:
        shots: The shots.
        scored: The images to score.
        synthetic: Synthetic anomalies to score, with the good images among `scored`, on which they
            are drawn.
        reading: How masks become pixels.

    Attributes:
        images: The image of each score: a place among the scored images, followed by the synthetic
            anomalies. The scored images come first, then the good ones among them again, then the
            synthetic ones. Without synthetic anomalies, only the scored images.
        known: Which shots each of `images` is scored with, bool `[V, S]`.
    """

    def __init__(
        self,
        shots: Sequence[Sample],
        scored: Sequence[Sample],
        reading: Reading,
        synthetic: Sequence[Anomaly] = (),
    ) -> None:
        place_of = {absolute_path(sample.image): place for place, sample in enumerate(scored)}
        self._sources = [place_of[absolute_path(anomaly.source.image)] for anomaly in synthetic]
        self._masks = [read_mask(shot.mask, reading) for shot in shots if shot.mask is not None]
        self.images = list(range(len(scored)))
        left_out: list[frozenset[int]] = [frozenset()] * len(scored)
        among = {shot.image for shot in shots}
        if any(sample.image in among for sample in scored):
            left_out = _left_out(shots, scored)
        if synthetic:
            good = [place for place, sample in enumerate(scored) if not sample.label]
            self.images += [*good, *range(len(scored), len(scored) + len(synthetic))]
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
        scored: Sequence[torch.Tensor],
        told: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Scores images by a head without known defects.

        Args:
            head: A head fitted on good images.
            scored: Feature maps of the scored images, then those of the synthetic anomalies, one
                tensor per level.
            told: Called every few images with the number of images done, and their total.

        Returns:
            Anomaly maps `[V, size, size]` of `images`.
        """
        found = []
        for features, distances in self._searched(head, scored, (), told):
            nothing = torch.ones((len(features), 0), dtype=torch.bool, device="cpu")
            scores = distances.means(nothing, neighbors=head.memory.neighbors)
            found.append(head.maps_of(features, scores))
        return self.chosen(torch.cat(found))

    def anomaly_maps_knowing(
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
            scored: See `anomaly_maps`.
            shots: Feature maps of the shots.
            held_out: Feature maps of good images that the head was not fitted on.
            told: See `anomaly_maps`.

        Returns:
            The head that knows all shots, and anomaly maps `[V, size, size]` of `images`, each by a
            head without the image's own patches.
        """
        patches = self.patches(head, shots)
        knowing = head.knowing(*Known((), patches).joined(head.memory.bank))
        usual = [knowing.memory(head.aggregator(maps)) for maps in batches_of(held_out)]
        knowing.defects.usual = usual_distance(torch.cat(usual))
        neighbors, defects = head.memory.neighbors, knowing.defects
        images = torch.tensor(self.images)
        found: dict[int, torch.Tensor] = {}
        done = 0
        for features, distances in self._searched(head, scored, patches, told):
            in_batch = (images >= done) & (images < done + len(features))
            for knows in (False, True):
                chosen = (in_batch & (self.known.any(dim=1) == knows)).nonzero().flatten()
                if not len(chosen):
                    continue
                places = (images[chosen] - done).tolist()
                of_chosen, known = distances.taken(places), self.known[chosen]
                if knows:
                    scores = of_chosen.scores(
                        known, neighbors=neighbors, weight=defects.weight, usual=defects.usual
                    )
                else:
                    scores = of_chosen.means(known, neighbors=neighbors)
                placed = torch.tensor(places).to(features.device)
                maps = knowing.maps_of(features[placed], scores)
                found.update(zip(chosen.tolist(), maps, strict=True))
            done += len(features)
        return knowing, torch.stack([found[place] for place in range(len(images))])

    def _searched(
        self,
        head: FittedHead,
        maps: Sequence[torch.Tensor],
        patches: Sequence[KnownPatches],
        told: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[torch.Tensor, ShotDistances]]:
        """Searches the patches of images, batch by batch.

        A patch of a synthetic anomaly that equals the one of its source at the same place has the
        same distances. It is not searched again; with strides of 4 these are four of five patches.

        Yields:
            Patch features of a batch, `[N, H, W, D]`, and their distances.
        """
        height, width = grid(maps)

        def of(rows: torch.Tensor, images: int) -> ShotDistances:
            return ShotDistances.of(rows, images, head.memory, patches, head.memory.neighbors)

        scored, done = len(maps[0]) - len(self._sources), 0
        of_scored: list[ShotDistances] = []
        for batch in head.batches([m[:scored] for m in maps]):
            rows: torch.Tensor = head.aggregator(batch)
            of_scored.append(of(rows, len(batch[0])))
            yield rows.reshape(-1, height, width, rows.shape[1]), of_scored[-1]
            done += len(batch[0])
            if told is not None:
                told(done, len(maps[0]))
        if not self._sources:
            return
        known = ShotDistances.joined(of_scored)
        for batch in head.batches([m[scored:] for m in maps]):
            sources = self._sources[done - scored :][: len(batch[0])]
            places = torch.tensor(sources).to(maps[0].device)
            rows = head.aggregator(batch)
            changed = (rows != head.aggregator([m[places] for m in maps])).any(dim=1)
            distances = known.taken(sources)
            if changed.any():
                found = of(rows[changed], 1)
                distances = distances.replaced(changed.reshape(len(sources), -1), found)
            yield rows.reshape(-1, height, width, rows.shape[1]), distances
            done += len(batch[0])
            if told is not None:
                told(done, len(maps[0]))

    def chosen(self, maps: torch.Tensor) -> torch.Tensor:
        """The maps of `images`, `[V, ...]`.

        Args:
            maps: One map for each scored image and synthetic anomaly.
        """
        return maps[torch.tensor(self.images).to(maps.device)]

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


def _source(shots: Sequence[Sample], anomaly: Anomaly) -> frozenset[int]:
    """The shots that a synthetic anomaly was taken from, by index."""
    if anomaly.shot is None:
        return frozenset()
    return frozenset(i for i, shot in enumerate(shots) if _is_same(anomaly.shot, shot))


def _is_same(one: Sample, other: Sample) -> bool:
    """Whether two images show the same part."""
    same = absolute_path(one.image) == absolute_path(other.image)
    return same or (one.group is not None and one.group == other.group)
