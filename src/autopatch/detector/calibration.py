"""Sets the threshold of a fitted head from the distances of good images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from autopatch.detector.extractor import grid
from autopatch.detector.known import Known, usual_distance
from autopatch.detector.scoring import FittedHead
from autopatch.detector.threshold import Threshold, calibrate
from autopatch.kernels import NearestNeighborIndex, combined_scores, nearest_neighbors


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate_head`.

    Attributes:
        threshold: The score above which an image is called anomalous.
        scores: Image scores of the calibration images, `[n]`.
        usual_score: Median, over these images, of the median pixel of an anomaly map.
    """

    threshold: Threshold
    scores: torch.Tensor
    usual_score: float


def bank_distances(
    head: FittedHead,
    maps: Iterable[Sequence[torch.Tensor]],
    count: int,
    told: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Squared distances of the patches of images to the memory bank.

    Args:
        head: The fitted head.
        maps: Feature maps of images that the bank was not fitted on, batch by batch.
        count: Number of images.
        told: Called after every batch with the number of images done, and their total.

    Returns:
        `[n, P, k]`, float32, ascending, for n images of P patches; k is the number of neighbors, or
        the number of rows if there are fewer.
    """
    neighbors = min(head.memory.neighbors, len(head.memory))
    found: list[torch.Tensor] = []
    done = 0
    for batch in maps:
        distances = nearest_neighbors(head.aggregator(batch), head.memory.index, neighbors)[0]
        found.append(distances.reshape(len(batch[0]), -1, neighbors))
        done += len(batch[0])
        if told is not None:
            told(done, count)
    return torch.cat(found)


def calibrate_head(
    head: FittedHead,
    known: Known,
    maps: Iterable[Sequence[torch.Tensor]],
    distances: torch.Tensor,
    false_alarm_rate: float,
    told: Callable[[int, int], None] | None = None,
) -> tuple[FittedHead, Calibration]:
    """Adds known images to a head, measures the usual distance of good patches if defects are
    known, and sets the threshold.

    Args:
        head: The fitted head, which knows no images.
        known: The known images.
        maps: Feature maps of the calibration images, batch by batch. They are iterated once, and
            once more if defects are known.
        distances: Squared distances of their patches to the nearest rows of a bank without them,
            `[n, P, k]`. With those to the rows of known images they make the scores, so what known
            images change is taken back exactly when they are removed.
        false_alarm_rate: Share of good images that may be called anomalous.
        told: Called after every batch with the number of images done, and their total.

    Returns:
        The head with the known images and the usual distance, and the calibration.
    """
    rows, defects = known.joined(head.memory.bank)
    added = rows[len(head.memory) :]
    head = head.knowing(rows, defects)
    if len(added) + len(defects):
        good, to_defects = _searched(head, added, maps, distances, told)
    else:
        good, to_defects = mean_of_nearest(distances.flatten(0, 1), head.memory.neighbors), None
    scores = good
    if to_defects is not None:
        usual = usual_distance(good)
        head = head.knowing(rows, defects, usual=usual)
        scores = combined_scores(good, to_defects, weight=head.defects.weight, usual=usual)
    highest, medians = [], []
    done, places = 0, distances.shape[1]
    for batch in maps:
        patches: torch.Tensor = head.aggregator(batch)
        images = len(batch[0])
        found = head.maps_of(
            patches.reshape(images, *grid(batch), patches.shape[1]),
            scores[done * places : (done + images) * places],
        ).flatten(1)
        highest.append(found.amax(dim=1))
        medians.append(found.median(dim=1).values)
        done += images
        if told is not None:
            told(done, len(distances))
    image_scores = torch.cat(highest)
    threshold = calibrate(image_scores.tolist(), false_alarm_rate=false_alarm_rate)
    return head, Calibration(threshold, image_scores, float(torch.cat(medians).median()))


def mean_of_nearest(distances: torch.Tensor, neighbors: int) -> torch.Tensor:
    """The mean of the smallest distances in each row, as `autopatch.kernels.mean_distances` takes
    it.

    Args:
        distances: Squared distances to rows of one or several banks, `[M, k]`, float32; the
            `neighbors` smallest of each bank, in any order.
        neighbors: Number of smallest distances; all k if there are fewer.

    Returns:
        `[M]`, float32.
    """
    if neighbors == 1:
        return distances.amin(dim=1)
    if distances.shape[1] > neighbors:
        distances = distances.topk(neighbors, largest=False).values
    return distances.mean(dim=1, dtype=torch.float64).float()


def _searched(
    head: FittedHead,
    added: torch.Tensor,
    maps: Iterable[Sequence[torch.Tensor]],
    distances: torch.Tensor,
    told: Callable[[int, int], None] | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean distances of all patches to good rows, also to those that known images added, and
    distances to defect rows if there are any; `[n * P]` each."""
    neighbors = min(head.memory.neighbors, len(added))
    index = NearestNeighborIndex(added) if neighbors else None
    good: list[torch.Tensor] = []
    to_defects: list[torch.Tensor] = []
    done = 0
    for batch in maps:
        patches = head.aggregator(batch)
        images = len(batch[0])
        nearest = distances[done : done + images].flatten(0, 1)
        if index is not None:
            more = nearest_neighbors(patches, index, neighbors)[0]
            nearest = torch.cat([nearest, more], dim=1)
        good.append(mean_of_nearest(nearest, head.memory.neighbors))
        if len(head.defects):
            to_defects.append(head.defects(patches))
        done += images
        if told is not None:
            told(done, len(distances))
    return torch.cat(good), torch.cat(to_defects) if to_defects else None
