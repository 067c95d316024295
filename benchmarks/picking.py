"""Scores a few hundred detectors by everything that a rule may pick by, and on the test set.

    python benchmarks/picking.py --out runs/picking

For each backbone and data set, a table goes to `results/picking`: the rwAP and image AUROC of every
detector on the test set, on the shots of many draws as a search scores them, and on each kind of
synthetic anomaly. `rules.py` compares rules of picking on these tables, without images. Results are
kept in the folder `--out`, so that an interrupted run goes on; tables that are there are kept.

Detectors that differ only in smoothing and in the weight of known defects are scored together: one
search gives the distances for every weight and draw. Maps are compared at 112 px, to save time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autopatch.data import (
    DEFAULT_KINDS,
    DEFAULT_READING,
    GOOD,
    KINDS,
    Anomaly,
    Cache,
    MVTecAD,
    Sample,
    draw_anomalies,
    load_anomalies,
    load_masks,
    make_split,
)
from autopatch.detector import Architecture, GoodMaps, Head, Input, batches_of, usual_distance
from autopatch.detector.scoring import fit_head
from autopatch.detector.upsampling import Upsampling
from autopatch.kernels import (
    PixelMetrics,
    pixel_metrics,
    region_weighted_average_precision,
)
from autopatch.search.feature_maps import FeatureMaps
from autopatch.search.shots import ShotDistances, Shots
from autopatch.supernet import Supernet, load_supernet
from features import SHARED
from record import Record

SPACES = ("autopatch_s", "timm:mobilenetv2_100", "timm:tf_efficientnet_lite0")
SETS = ("magnetic_tile", "dagm_class1", "mvtec_bottle", "mvtec_screw", "mvtec_transistor")
RESULTS = Path(__file__).parent / "results" / "picking"
RESERVE = 5
SHOTS = (1, 2, 4)
DRAWS = 20
PER_KIND = 20
PREFIXES = (2, 5, 10, 20)
"""Numbers of anomalies of each kind."""

STRIDES = ((4, 8), (8, 16), (4, 8, 16), (8,))
SIZES = ((224, 1), (224, 3), (320, 3))
"""Image sizes and patch sizes."""

SMOOTHINGS = (0.0, 1.0)
WEIGHTS = (None, 0.5)
BY_SIZE = 9
"""Number of values of a kind, see `Table`."""

BANK_SIZE = 10_000
EVALUATION_SIZE = 112
TRANSPLANT = "transplant"

_TRANSPLANTS = 4  # of each shot
_CACHE_BYTES = 5 << 30


@dataclass(frozen=True)
class Draw:
    """Shots of a search.

    Attributes:
        count: Number of shots of each type.
        places: Their places among the reserved images of each type, by type.
    """

    count: int
    places: tuple[tuple[int, ...], ...]


def draws(types: int, seed: int = 0) -> list[Draw]:
    """No shots, then `DRAWS` different draws of each number of shots; fewer if there are not so
    many."""
    rng = np.random.default_rng(seed)
    found = [Draw(0, ((),) * types)]
    for count in SHOTS:
        seen: dict[Draw, None] = {}
        for _ in range(50 * DRAWS):
            if len(seen) == DRAWS:
                break
            places = (rng.choice(RESERVE, count, replace=False) for _ in range(types))
            seen[Draw(count, tuple(tuple(sorted(map(int, of))) for of in places))] = None
        found += seen
    return found


@dataclass(frozen=True)
class Table:
    """Everything measured on one data set with one backbone.

    Attributes:
        about: The setting, in words by name.
        detectors: Each detector in words: image size, strides, patch size, smoothing, weight.
        draws: The draws.
        kinds: Names of the kinds, transplants last.
        test: rwAP and image AUROC on the test set, `[detectors, draws, 2]`.
        shots: The same on shots and hold-out images as a search scores them; NaN without shots.
        synthetic: The same for each kind, then AP, then rwAP and AP of the smallest, the middle and
            the largest third of its anomalies, `[detectors, draws, kinds, 9]`; NaN for transplants
            without shots.
        prefixes: rwAP of each kind with its first anomalies, without known defects, `[detectors,
            len(PREFIXES), kinds - 1]`; NaN for detectors with a weight.
    """

    about: Mapping[str, str]
    detectors: Sequence[Mapping[str, Any]]
    draws: Sequence[Draw]
    kinds: Sequence[str]
    test: npt.NDArray[np.float64]
    shots: npt.NDArray[np.float64]
    synthetic: npt.NDArray[np.float64]
    prefixes: npt.NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Writes the table to a compressed file, values rounded to 0.0001."""
        head = {
            "about": dict(self.about),
            "detectors": list(self.detectors),
            "draws": [[draw.count, draw.places] for draw in self.draws],
            "kinds": list(self.kinds),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: np.where(np.isnan(values), -1, np.rint(1e4 * values)).astype(np.int16)
            for name, values in self._arrays.items()
        }
        np.savez_compressed(path, head=json.dumps(head), **arrays)

    @property
    def _arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        names = ("test", "shots", "synthetic", "prefixes")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, path: Path) -> Table:
        """Reads a file of `save`."""
        with np.load(path) as stored:
            arrays = dict(stored)
        head = json.loads(str(arrays.pop("head")))
        head["draws"] = [Draw(count, tuple(map(tuple, places))) for count, places in head["draws"]]
        values = {name: np.where(array < 0, np.nan, array / 1e4) for name, array in arrays.items()}
        return cls(**head, **values)


class ScoredSet:
    """A data set with all of its images, drawn and real.

    Args:
        supernet: The backbones.
        name: Name of the data set.
        folder: Where the synthetic anomalies are drawn.
    """

    def __init__(self, supernet: Supernet, name: str, folder: Path) -> None:
        self.supernet, self.name, self.folder = supernet, name, folder
        dataset = MVTecAD.scan(SHARED / "data" / self.name)
        self.split = make_split(dataset, shots=RESERVE, reserve=RESERVE, seed=0)
        self.types = dataset.types
        self.draws = draws(len(self.types))
        self.kinds = list(KINDS)
        split = self.split
        self.samples: list[Sample] = [*split.test, *split.holdout, *split.validation]
        self.samples += [anomaly.sample for anomaly in self.anomalies]
        self.places = {sample: place for place, sample in enumerate(self.samples)}
        self.masks = load_masks(self.samples, EVALUATION_SIZE)
        self._maps = FeatureMaps(
            self.supernet, fit=split.fit, scored=self.samples, cache=Cache(_CACHE_BYTES)
        )

    @cached_property
    def anomalies(self) -> tuple[Anomaly, ...]:
        """The synthetic anomalies, by kind; transplants last, `_TRANSPLANTS` of each shot."""
        split, found = self.split, []
        plain = [kind for kind in KINDS if kind != TRANSPLANT]
        for name, kinds, count in (
            ("kinds", plain, PER_KIND),
            ("transplants", [TRANSPLANT], _TRANSPLANTS * len(split.validation)),
        ):
            folder = self.folder / name
            if not folder.is_dir():
                draw_anomalies(
                    split.holdout,
                    folder,
                    textures=split.fit,
                    shots=split.validation,
                    kinds=kinds,
                    per_kind=count,
                )
            found += load_anomalies(folder)
        return tuple(found)

    def drawn(self, draw: Draw) -> list[int]:
        """Places of the shots of a draw among the reserved images."""
        return [
            type_ * RESERVE + place for type_, places in enumerate(draw.places) for place in places
        ]

    def maps(self, size: int, strides: Sequence[int], patch_size: int) -> Any:
        """Architecture, feature maps of the fit images, and those of all samples."""
        backbone = self.supernet.of_strides(strides)
        if backbone is None:
            return None
        head = Head((patch_size,) * len(backbone.levels), BANK_SIZE)
        architecture = Architecture(Input(size), backbone, head)
        maps = self._maps.get(architecture)
        fit = len(self.split.fit)
        return architecture, [m[:fit] for m in maps], [m[fit:] for m in maps]


def measure(scene: ScoredSet, size: int, strides: Sequence[int], patch_size: int) -> dict[str, Any]:
    """All detectors with some patch features: values in the order of `variants`."""
    found = scene.maps(size, strides, patch_size)
    if found is None:
        return {}
    architecture, fit_maps, maps = found
    head = fit_head(GoodMaps.of(fit_maps), architecture.head, size=EVALUATION_SIZE)
    split = scene.split
    shots = Shots(split.validation, (), DEFAULT_READING)
    of_shots = [scene.places[sample] for sample in split.validation]
    patches = shots.patches(head, [m[of_shots] for m in maps])
    parts = []
    for batch in batches_of(maps):
        rows = head.aggregator(batch)
        parts.append(ShotDistances.of(rows, len(batch[0]), head.memory, patches, 1))
    distances = ShotDistances.joined(parts)
    grid = max((m.shape[2], m.shape[3]) for m in maps)
    return _Scorer(scene, distances, grid).values()


def variants() -> list[tuple[float, float | None]]:
    """Smoothing and weight of the detectors with the same patch features."""
    return [(smoothing, weight) for smoothing in SMOOTHINGS for weight in WEIGHTS]


class _Scorer:
    """Scores all draws from the distances of every patch."""

    def __init__(self, scene: ScoredSet, distances: ShotDistances, grid: tuple[int, int]) -> None:
        self.scene, self.distances, self.grid = scene, distances, grid
        self.test = [scene.places[sample] for sample in scene.split.test]
        self.holdout = [scene.places[sample] for sample in scene.split.holdout]

    def values(self) -> dict[str, Any]:
        found: dict[str, list[Any]] = {"test": [], "shots": [], "synthetic": [], "prefixes": []}
        plain = self._maps(self._plain(range(len(self.scene.samples))))
        for draw in self.scene.draws:
            for name, values in self._draw(draw, plain).items():
                found[name].append(values)  # [draws, variants, ...]
        of_plain = {s: self._prefixes(plain[s]) for s in SMOOTHINGS}
        found["prefixes"] = [
            of_plain[smoothing] if weight is None else None for smoothing, weight in variants()
        ]
        return found

    def _draw(self, draw: Draw, plain: Mapping[float, torch.Tensor]) -> dict[str, Any]:
        scene, split = self.scene, self.scene.split
        drawn = scene.drawn(draw)
        among = [split.validation[place] for place in drawn]
        synthetic = [a for a in scene.anomalies if a.shot is None or (a.shot in among)]
        scored = [*split.holdout, *among]
        views = Shots(among, scored, DEFAULT_READING, synthetic)
        every = [*scored, *(anomaly.sample for anomaly in synthetic)]
        images = self.test + [scene.places[every[place]] for place in views.images]
        known = torch.zeros((len(images), len(split.validation)), dtype=torch.bool)
        known[: len(self.test), drawn] = True
        known[len(self.test) :, drawn] = views.known
        types = [scene.samples[image].type for image in images]
        seen = _Seen(len(self.test), len(scored), types, scene.masks[images])
        by_weight = {
            weight: None if weight is None or not drawn else self._known(images, known, weight)
            for weight in WEIGHTS
        }
        rows = []
        cached: dict[float, Any] = {}
        for smoothing, weight in variants():
            scores = by_weight[weight]
            if scores is None:
                if smoothing not in cached:
                    cached[smoothing] = seen.values(plain[smoothing][images])
                rows.append(cached[smoothing])
            else:
                rows.append(seen.values(self._smoothed(scores, smoothing)))
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _plain(self, images: Sequence[int]) -> torch.Tensor:
        shots = len(self.scene.split.validation)
        nothing = torch.zeros((len(images), shots), dtype=torch.bool)
        return self.distances.taken(list(images)).means(nothing, neighbors=1)

    def _known(self, images: Sequence[int], known: torch.Tensor, weight: float) -> torch.Tensor:
        drawn = known[:1].expand(len(self.holdout), -1)
        usual = usual_distance(self.distances.taken(self.holdout).means(drawn, neighbors=1))
        scores = torch.empty((len(images), self.grid[0] * self.grid[1]))
        knows = known.any(dim=1)
        for some in (True, False):
            places = (knows == some).nonzero().flatten().tolist()
            if places:
                of = self.distances.taken([images[place] for place in places])
                found = (
                    of.scores(known[places], neighbors=1, weight=weight, usual=usual)
                    if some
                    else of.means(known[places], neighbors=1)
                )
                scores[places] = found.reshape(len(places), -1)
        return scores

    def _maps(self, scores: torch.Tensor) -> dict[float, torch.Tensor]:
        return {smoothing: self._smoothed(scores, smoothing) for smoothing in SMOOTHINGS}

    def _smoothed(self, scores: torch.Tensor, smoothing: float) -> torch.Tensor:
        return Upsampling(EVALUATION_SIZE, smoothing)(scores.reshape(-1, *self.grid))

    def _prefixes(self, maps: torch.Tensor) -> list[list[float]]:
        scene = self.scene
        found = []
        for count in PREFIXES:
            of_kinds = []
            for kind in DEFAULT_KINDS:
                drawn = [scene.places[a.sample] for a in scene.anomalies if a.sample.type == kind]
                images = [*self.holdout, *drawn[:count]]
                types = [scene.samples[image].type for image in images]
                of_kinds.append(_rwap(maps[images], scene.masks[images], types))
            found.append(of_kinds)
        return found


@dataclass
class _Seen:
    """Images of a draw: test, scored, then the good ones again and the synthetic anomalies."""

    test: int
    scored: int
    types: Sequence[str]
    masks: torch.Tensor

    def __post_init__(self) -> None:
        self._areas = self.masks.flatten(1).sum(dim=1).tolist()

    def values(self, maps: torch.Tensor) -> dict[str, Any]:
        end = self.test + self.scored
        beside = range(end, len(self.types))
        of_kinds = []
        for kind in KINDS:
            # Transplants and their good images lack a shot.
            good = self._of(GOOD, range(self.test, end) if kind == TRANSPLANT else beside)
            drawn = self._of(kind, beside)
            of_kinds.append(self._by_size(maps, good, drawn) if drawn else None)
        return {
            "test": self._both(maps, range(self.test)),
            "shots": self._both(maps, range(self.test, end)),
            "synthetic": of_kinds,
        }

    def _by_size(
        self, maps: torch.Tensor, good: Sequence[int], drawn: Sequence[int]
    ) -> tuple[float, ...]:
        """rwAP, image AUROC and AP, then rwAP and AP of each third by area."""
        by_area = sorted(drawn, key=lambda place: self._areas[place])
        whole = [*good, *drawn]
        of_all, *thirds = (
            self._pixels(maps, places)
            for places in (whole, *([*good, *map(int, p)] for p in np.array_split(by_area, 3)))
        )
        values = [of_all.rwAP, self._image_auroc(maps, whole), of_all.AP]
        return (*values, *(value for found in thirds for value in (found.rwAP, found.AP)))

    def _of(self, kind: str, places: Sequence[int]) -> list[int]:
        return [place for place in places if self.types[place] == kind]

    def _both(self, maps: torch.Tensor, places: Sequence[int]) -> tuple[float, float] | None:
        """rwAP and image AUROC; None without an anomaly."""
        if all(self.types[place] == GOOD for place in places):
            return None
        return self._pixels(maps, places).rwAP, self._image_auroc(maps, places)

    def _pixels(self, maps: torch.Tensor, places: Sequence[int]) -> PixelMetrics:
        chosen = list(places)
        types = [self.types[place] for place in chosen]
        return pixel_metrics(maps[chosen].contiguous(), self.masks[chosen], types)

    def _image_auroc(self, maps: torch.Tensor, places: Sequence[int]) -> float:
        chosen = list(places)
        types = [self.types[place] for place in chosen]
        scores = maps[chosen].flatten(1).amax(dim=1).reshape(-1, 1, 1)
        labels = torch.tensor([kind != GOOD for kind in types]).reshape(-1, 1, 1)
        return pixel_metrics(scores, labels, types).AUROC


def _rwap(maps: torch.Tensor, masks: torch.Tensor, types: Sequence[str]) -> float:
    return region_weighted_average_precision(maps.contiguous(), masks, types)


def fill(scene: ScoredSet, path: Path, about: Mapping[str, str]) -> Table:
    """Measures what a file lacks, appends it, and returns the table.

    Args:
        scene: The data set.
        path: The file, see `Record`; each result has the detectors of the same patch features.
        about: The setting.
    """
    record = Record(path, dict(about))
    units = [(size, strides, patch) for size, patch in SIZES for strides in STRIDES]
    done = {(r["size"], tuple(r["strides"]), r["patch"]) for r in record.results}
    missing = [unit for unit in units if unit not in done]
    began = time.monotonic()
    for number, unit in enumerate(missing, start=1):
        values = measure(scene, *unit)
        record.add({"size": unit[0], "strides": unit[1], "patch": unit[2], "values": values})
        seconds = time.monotonic() - began
        print(
            f"{path.stem}: {len(units) - len(missing) + number} of {len(units)}, "
            f"{seconds / 60:.1f} min, about {seconds / number * (len(missing) - number) / 60:.0f} "
            "min left",
            file=sys.stderr,
            flush=True,
        )
    return assemble(scene, record.results, about)


def assemble(
    scene: ScoredSet, results: Sequence[Mapping[str, Any]], about: Mapping[str, str]
) -> Table:
    """The table of all results."""
    detectors = []
    parts: dict[str, list[npt.NDArray[np.float64]]] = {}
    for result in results:
        if not result["values"]:
            continue
        for smoothing, weight in variants():
            detectors.append(
                {
                    "size": result["size"],
                    "strides": result["strides"],
                    "patch": result["patch"],
                    "smoothing": smoothing,
                    "weight": weight,
                }
            )
        for name in ("test", "shots", "synthetic"):
            shape = {"synthetic": (len(scene.kinds), BY_SIZE)}.get(name, (2,))
            values = np.full((len(scene.draws), len(variants()), *shape), np.nan)
            for draw, of_draw in enumerate(result["values"][name]):
                for variant, of_variant in enumerate(of_draw):
                    if of_variant is None:
                        continue
                    for place, value in enumerate(of_variant):
                        if value is not None:
                            values[draw, variant, place] = value
            parts.setdefault(name, []).append(values.swapaxes(0, 1))
        prefixes = np.full((len(variants()), len(PREFIXES), len(DEFAULT_KINDS)), np.nan)
        for variant, of_variant in enumerate(result["values"]["prefixes"]):
            if of_variant is not None:
                prefixes[variant] = of_variant
        parts.setdefault("prefixes", []).append(prefixes)
    arrays = {name: np.concatenate(of) for name, of in parts.items()}
    return Table(about, detectors, scene.draws, scene.kinds, **arrays)


def load_network(space: str) -> Supernet:
    """A backbone with its trained weights."""
    weights = f"{space.removeprefix('timm:')}.safetensors"
    return load_supernet(
        space, str(SHARED / "weights" / weights) if space.startswith("timm:") else "auto"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spaces", nargs="+", default=SPACES)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    for space in arguments.spaces:
        supernet = load_network(space)
        for name in arguments.sets:
            stem = f"{space.removeprefix('timm:')}_{name}"
            if (RESULTS / f"{stem}.npz").is_file():
                continue
            about = {"space": space, "set": name, "split": "random, seed 0"}
            scene = ScoredSet(supernet, name, arguments.out / "synthetic" / name)
            table = fill(scene, arguments.out / f"{stem}.jsonl", about)
            table.save(RESULTS / f"{stem}.npz")


if __name__ == "__main__":
    main()
