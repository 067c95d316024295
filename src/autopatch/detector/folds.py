"""Folds of good images: each is searched in a bank without it, so that all images can be in the
bank of the detector."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import torch

from autopatch.detector.coreset import CORESET_BYTES, choose_coreset
from autopatch.detector.extractor import GoodMaps, PatchAggregator
from autopatch.detector.head import Head
from autopatch.kernels import NearestNeighborIndex, nearest_neighbors

FOLDS = 5
"""Number of folds; fewer if there are fewer sets of related images."""


def related_images(digests: Sequence[bytes], groups: Sequence[str | None]) -> list[tuple[int, ...]]:
    """The sets of images that show the same picture or belong to one group, also by way of other
    images; an image without relatives is a set of its own.

    Args:
        digests: Hash of each image's picture.
        groups: Group of each image; None if it has none.

    Returns:
        The images by number, ascending in each set; the sets by their first images.
    """
    sets: dict[Hashable, set[int]] = {}
    for image, keys in enumerate(zip(digests, groups, strict=True)):
        joined = {image}.union(*(sets.get(key, set()) for key in keys if key is not None))
        for other in joined:
            sets[digests[other]] = joined
            if groups[other] is not None:
                sets[groups[other]] = joined
    distinct = {id(images): tuple(sorted(images)) for images in sets.values()}
    return sorted(distinct.values())


def draw_folds(related: Sequence[Sequence[int]], seed: int) -> tuple[tuple[int, ...], ...]:
    """Folds of about equal size, at random. Related images stay together.

    Args:
        related: Sets of related images, see `related_images`.
        seed: Seed of the choice.

    Returns:
        The images of each fold by number, ascending; `FOLDS` folds, or as many as there are sets.
    """
    order = np.random.default_rng(seed).permutation(len(related)).tolist()
    folds: list[list[int]] = [[] for _ in range(min(FOLDS, len(related)))]
    for number in sorted(order, key=lambda number: -len(related[number])):
        min(folds, key=len).extend(related[number])
    return tuple(tuple(sorted(fold)) for fold in folds)


def fold_distances(
    good: GoodMaps,
    aggregator: PatchAggregator,
    head: Head,
    folds: Sequence[Sequence[int]],
    *,
    memory_bytes: int = CORESET_BYTES,
    told: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Squared distances of the patches of good images to banks without them.

    For each fold, a bank is chosen from the patches of all other images as that of the detector is,
    see `fit_head`, and the patches of the fold are searched in it. The steps of the aggregator are
    fitted on all images once, also on those of the fold.

    Args:
        good: Maps of the images. They are iterated twice for each fold.
        aggregator: The fitted aggregator.
        head: The settings.
        folds: Images of each fold by number; every image is in one fold.
        memory_bytes: Memory for choosing a bank, see `choose_coreset`.
        told: Called before and after every search with the number of images done, and their total.

    Returns:
        `[n, P, k]`, float32, ascending, for n images of P patches; k is the head's number of
        neighbors, or the number of rows of the smallest bank.

    Raises:
        ValueError: The memory is too small for the bank size.
    """
    count = sum(map(len, folds))
    places = good.patches // count
    largest = max(map(len, folds))
    neighbors = min(head.neighbors, head.bank_size or good.patches, (count - largest) * places)
    found = torch.empty((count, places, neighbors), device=good.device)
    done = 0
    for fold in folds:
        if told is not None:
            told(done, count)
        inside = torch.zeros(count, dtype=torch.bool)
        inside[list(fold)] = True
        inside = inside.to(good.device)
        coreset = choose_coreset(
            _rows(good, aggregator, ~inside),
            head.bank_size,
            patches=(count - len(fold)) * places,
            memory_bytes=memory_bytes,
        )
        index = NearestNeighborIndex(coreset.rows[: head.bank_size])
        in_order = []
        for rows in _rows(good, aggregator, inside):
            in_order.append(nearest_neighbors(rows, index, neighbors)[0])
            done += len(rows) // places
            if told is not None:
                told(done, count)
        found[inside] = torch.cat(in_order).reshape(len(fold), places, neighbors)
    return found


def _rows(
    good: GoodMaps, aggregator: PatchAggregator, chosen: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Patch features of the chosen images `[n]`, bool, in blocks `[M_i, D]`."""
    first = 0
    for maps in good.batches:
        of_batch = chosen[first : first + len(maps[0])]
        first += len(of_batch)
        if of_batch.any():
            rows: torch.Tensor = aggregator([m[of_batch] for m in maps])
            yield rows
