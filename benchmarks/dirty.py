"""Measures how surely `check-data --deep` finds defects among good images, on `../shared/data`.

    python benchmarks/dirty.py > benchmarks/results/dirty.md

Images of defects from the test sets are planted among the good training images: one, five of one
type, or five of all types. Every draw is compared as `check_deep` does it. Another bank shows
what its choice is worth. The limit is the same rule for all sets; nothing is tuned for a set.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    ImageReader,
    MVTecAD,
    Sample,
    decide,
    image_digests,
)
from autopatch.detector import GoodMaps, PatchAggregator, cut_subnet, grid, patchcore_architecture
from autopatch.detector.extractor import feature_maps, stack_maps
from autopatch.detector.folds import draw_folds, fold_distances, related_images
from autopatch.detector.unusual import distances_to_others, highest_usual, patch_coresets
from autopatch.detector.upsampling import Upsampling
from autopatch.runs import check_deep
from autopatch.supernet import load_supernet
from features import SHARED
from scenes import mean

SETS = ("magnetic_tile", "dagm_class1", "mvtec_bottle", "mvtec_screw", "mvtec_transistor")
PLANTED = 5
FIRST = 10
MIXED = f"{PLANTED} of all types"

Related = Sequence[Sequence[int]]
Bank = Callable[[Sequence[int], Related], torch.Tensor]


class Scene:
    """The good training images and the defects of a data set, as the PatchCore baseline of the
    default backbone sees them."""

    def __init__(self, name: str) -> None:
        dataset = MVTecAD.scan(SHARED / "data" / name)
        self.good = len(dataset.train)
        self.defects = [sample for sample in dataset.test if sample.label]
        self.kinds = dataset.types
        samples: list[Sample] = [*dataset.train, *self.defects]
        files = [sample.image for sample in samples]
        reading, _ = decide(DEFAULT_READING, files[: self.good])
        self._digests = image_digests(files, reading.exif)
        supernet = load_supernet()
        architecture = patchcore_architecture(supernet, images=self.good)
        assert architecture is not None
        self._head = architecture.head
        subnet = cut_subnet(supernet, architecture, files)
        maps = feature_maps(subnet, architecture.input, files, reader=ImageReader(reading=reading))
        self._maps = stack_maps(maps, len(files))
        self._grid = grid(self._maps)
        channels = [level.channels for level in subnet.levels]
        self._aggregator = PatchAggregator.of(self._head, channels)
        places = self._grid[0] * self._grid[1]
        rows = [self._aggregator(batch) for batch in GoodMaps.of(self._maps).batches]
        self._patches = torch.cat(rows).reshape(len(files), places, -1)
        self._coresets = patch_coresets(self._patches)

    def related(self, images: Sequence[int]) -> Related:
        """The sets of images that show the same picture, by place in `images`."""
        return related_images([self._digests[image] for image in images], [None] * len(images))

    def others(self, images: Sequence[int], related: Related) -> torch.Tensor:
        """As `check_deep`: a tenth of each other image, 20 folds."""
        places = list(images)
        found = distances_to_others(self._patches[places], self._coresets[places], related, seed=0)
        return self._scores(found)

    def coreset(self, images: Sequence[int], related: Related) -> torch.Tensor:
        """The banks that set a threshold: coresets of a tenth of all patches, 5 folds."""
        places = list(images)
        good = GoodMaps.of([maps[places] for maps in self._maps])
        folds = draw_folds(related, 0)
        return self._scores(fold_distances(good, self._aggregator, self._head, folds)[..., 0])

    def _scores(self, distances: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = Upsampling(EVALUATION_SIZE)(distances.reshape(-1, *self._grid))
        return maps.flatten(1).amax(dim=1)


@dataclass(frozen=True)
class Outcome:
    """Shares of the planted images, and the number of good images that are flagged."""

    flagged: float
    among_first: float
    false_flags: int


def outcome(scores: npt.NDArray[np.float32], good: int) -> Outcome:
    flagged = scores > highest_usual(scores)
    ranks = np.argsort(np.argsort(-scores))[good:]
    return Outcome(
        float(flagged[good:].mean()) if len(ranks) else 0.0,
        float((ranks < FIRST).mean()) if len(ranks) else 0.0,
        int(flagged[:good].sum()),
    )


def draws(scene: Scene, count: int) -> dict[str, list[list[int]]]:
    """Images to plant, by what they have in common."""
    rng = np.random.default_rng(0)
    every = np.arange(len(scene.defects))
    by_kind = [[i for i in every if scene.defects[i].type == kind] for kind in scene.kinds]
    chosen: dict[str, list[npt.NDArray[np.int64]]] = {
        "none": [every[:0]],
        "1": [rng.choice(every, 1) for _ in range(count)],
        f"{PLANTED} of one type": [
            rng.choice(by_kind[number % len(by_kind)], PLANTED, replace=False)
            for number in range(count)
        ],
        MIXED: [rng.choice(every, PLANTED, replace=False) for _ in range(count)],
    }
    return {
        name: [[scene.good + int(i) for i in images] for images in sets]
        for name, sets in chosen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--draws", type=int, default=4, help="Draws of each kind.")
    parser.add_argument("--other-draws", type=int, default=1, help="Draws with the other bank.")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"autopatch_s, PatchCore baseline at 224 px. Means of {arguments.draws} draws; with the "
        f"other bank (*), of {arguments.other_draws}. Flagged: share of the planted defects "
        f"above the limit; top ten: among the {FIRST} highest scores; false flags: good images "
        f"above the limit. None planted: the set as it is. {arguments.threads} thread; other "
        "programs ran at the same time.\n"
    )
    print("| set | bank | planted | flagged, % | top ten, % | false flags |")
    print("|---|---|---|---|---|---|")
    for name in arguments.sets:
        scene = Scene(name)
        banks: dict[str, tuple[Bank, int]] = {
            "a tenth of each image, 20 folds": (scene.others, arguments.draws),
            "* coreset of a tenth, 5 folds": (scene.coreset, arguments.other_draws),
        }
        for words, (bank, count) in banks.items():
            for planted, sets in draws(scene, count).items():
                if bank == scene.coreset and planted != MIXED:
                    continue
                found = []
                for images in sets:
                    compared = [*range(scene.good), *images]
                    scores = bank(compared, scene.related(compared)).numpy()
                    found.append(outcome(scores, scene.good))
                shares = ("", "")
                if planted != "none":
                    shares = (
                        mean([each.flagged for each in found]),
                        mean([each.among_first for each in found]),
                    )
                false = statistics.mean(each.false_flags for each in found)
                cells = [f"{name} ({scene.good})", words, planted, *shares, f"{false:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    print("\n| set | good images | `check_deep`, seconds of CPU time | seconds |")
    print("|---|---|---|---|")
    for name in arguments.sets:
        started, cpu = time.perf_counter(), time.process_time()
        result = check_deep(SHARED / "data" / name)
        seconds = time.perf_counter() - started
        cpu = time.process_time() - cpu
        print(f"| {name} | {len(result.images)} | {cpu:.1f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
