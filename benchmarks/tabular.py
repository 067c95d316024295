"""Evaluates every architecture of a small search space, so that optimizers can be compared without
images.

    python benchmarks/tabular.py --out runs/tabular

One table for each data set goes to `results/tabular`. It holds the costs and the rwAP of each
architecture on the test set and, as a search measures it, on the validation set, for several draws
of the shots. Results are kept in the folder `--out`, so that an interrupted run goes on.

Architectures that differ only in what comes after their patch features are evaluated together: they
share the coreset, and one search gives the distances for every number of neighbors, weight of known
defects and draw.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    Cache,
    MVTecAD,
    Sample,
    Split,
    load_masks,
    make_split,
)
from autopatch.detector import (
    Architecture,
    FittedHead,
    GoodMaps,
    Head,
    Known,
    KnownPatches,
    batches_of,
    head_of_coreset,
    usual_distance,
)
from autopatch.detector.upsampling import Upsampling
from autopatch.kernels import region_weighted_average_precision
from autopatch.search import (
    OBJECTIVES,
    FittedCandidate,
    LatencyTable,
    SearchSpace,
    compose_space,
    measure_table,
)
from autopatch.search.coresets import Coresets, before_bank
from autopatch.search.feature_maps import FeatureMaps
from autopatch.search.latency import Case
from autopatch.search.objectives import unseen
from autopatch.search.shots import ShotDistances, Shots
from autopatch.search.space import Genome
from autopatch.supernet import Supernet, load_supernet
from features import SHARED
from record import Record

SPACE = "timm:mobilenetv2_100"
SETS = ("magnetic_tile", "mvtec_bottle")
RESULTS = Path(__file__).parent / "results" / "tabular"
CHOICES = {
    "image_size": (160, 192, 224),
    "bank_size": (500, 2000, 10_000),
    "neighbors": (1, 3),
    "defects": (None, 0.5),
    "smoothing": (0, 2),
    "distance": ("squared_l2", "cosine"),
    "patch_size": (1, 3),
}
LEFT_OUT = ("use_stride32",)
SEED = 0  # of the split
RESERVE = 4
DRAWS = ((0,), (1,), (2,), (3,), (0, 1), (2, 3), (0, 1, 2, 3))
"""The shots of each draw: places among the reserved images of each type."""

_MEASURED = ("total_flops", "memory")
_CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Table:
    """All architectures of a search space with their measured values.

    Attributes:
        space: The space.
        draws: Shots of each draw, see `DRAWS`.
        genomes: The canonical genomes of the space, `[A, genes]`.
        columns: Values `[A, draws]` by name: "test" and "validation" are rwAP; "latency" is in
            seconds, "memory" in bytes; the others are numbers.
        about: What else there is to say, in words by name.
    """

    space: SearchSpace
    draws: tuple[tuple[int, ...], ...]
    genomes: npt.NDArray[np.uint8]
    columns: Mapping[str, npt.NDArray[np.float64]]
    about: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[Genome, int]:
        """The row of each genome."""
        return {tuple(genome): row for row, genome in enumerate(self.genomes.tolist())}

    @property
    def digest(self) -> str:
        """SHA-256 of what a search sees, hexadecimal."""
        seen = [self.genomes, self.columns["latency"], self.columns["validation"]]
        return hashlib.sha256(b"".join(array.tobytes() for array in seen)).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the table to a compressed file."""
        head = {"space": self.space.to_json(), "draws": self.draws, "about": dict(self.about)}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, head=json.dumps(head), genomes=self.genomes, **self.columns)

    @classmethod
    def load(cls, path: Path) -> Table:
        """Reads a file of `save`."""
        with np.load(path) as stored:
            arrays = dict(stored)
        head = json.loads(str(arrays.pop("head")))
        return cls(
            SearchSpace.from_json(head["space"]),
            tuple(map(tuple, head["draws"])),
            arrays.pop("genomes"),
            arrays,
            head["about"],
        )


@dataclass(frozen=True)
class Scored:
    """What is scored for one draw.

    Attributes:
        images: The images.
        known: Which sets of shots each is scored with, bool `[images, sets]`.
        all_known: The sets of all shots of the draw, bool `[1, sets]`.
    """

    images: list[int]
    known: torch.Tensor
    all_known: torch.Tensor


@dataclass(frozen=True)
class Part:
    """Images that are scored together.

    Attributes:
        samples: The images.
        sets: Sets of shots, by their places, whose rows need not be told apart.
        held_out: The images that show the usual distance of good patches.
        draws: What is scored for each draw.
    """

    samples: tuple[Sample, ...]
    sets: tuple[tuple[int, ...], ...]
    held_out: list[int]
    draws: tuple[Scored, ...]

    @classmethod
    def test(cls, split: Split) -> Part:
        """The test set, scored by the detector that is fitted: all images with all shots of a draw,
        and the usual distance of the hold-out images."""
        images = list(range(len(split.test)))
        draws = []
        for draw in DRAWS:
            known = torch.tensor([[place in draw for place in range(RESERVE)]])
            draws.append(Scored(images, known.expand(len(images), -1), known))
        return cls(
            samples=(*split.test, *split.holdout),
            sets=tuple(tuple(_drawn(len(split.validation), (place,))) for place in range(RESERVE)),
            held_out=list(range(len(images), len(images) + len(split.holdout))),
            draws=tuple(draws),
        )

    @classmethod
    def validation(cls, split: Split) -> Part:
        """What a search is scored on: the hold-out images and the shots of the draw."""
        shots = split.validation
        held_out = list(range(len(split.holdout)))
        draws = []
        for draw in DRAWS:
            drawn = _drawn(len(shots), draw)
            images = [*held_out, *(len(held_out) + shot for shot in drawn)]
            among = [shots[shot] for shot in drawn]
            known = torch.zeros((len(images), len(shots)), dtype=torch.bool)
            known[:, drawn] = Shots(among, (*split.holdout, *among), DEFAULT_READING).known
            draws.append(Scored(images, known, known.any(dim=0, keepdim=True)))
        return cls(
            samples=(*split.holdout, *shots),
            sets=tuple((shot,) for shot in range(len(shots))),
            held_out=held_out,
            draws=tuple(draws),
        )


def _drawn(shots: int, draw: Sequence[int]) -> list[int]:
    """The shots of a draw, of so many; `RESERVE` successive shots are of one type."""
    return [shot for shot in range(shots) if shot % RESERVE in draw]


class Exhaustive:
    """Evaluates architectures, many at a time.

    Args:
        supernet: The supernet.
        split: The images; all of the reserve are shots.
        latency: What the latency is read from.
    """

    def __init__(self, supernet: Supernet, split: Split, latency: LatencyTable) -> None:
        self.supernet = supernet
        self._latency = latency
        self.parts = {"test": Part.test(split), "validation": Part.validation(split)}
        scored = [sample for part in self.parts.values() for sample in part.samples]
        self._fit = len(split.fit)
        self._places = {
            name: torch.tensor([self._fit + scored.index(sample) for sample in part.samples])
            for name, part in self.parts.items()
        }
        self._masks = {name: load_masks(part.samples) for name, part in self.parts.items()}
        self._shots = Shots(split.validation, (), DEFAULT_READING)
        self._of_shots = slice(len(split.holdout), None)  # of the validation part
        validation = self.parts["validation"].samples
        self._of_unseen = [validation.index(sample) for sample in unseen(split.holdout)]
        cache = Cache(_CACHE_BYTES)
        self._maps = FeatureMaps(supernet, fit=split.fit, scored=scored, cache=cache)
        self._coresets = Coresets(Cache(_CACHE_BYTES))

    def __call__(self, architectures: Sequence[Architecture]) -> dict[str, list[list[float]]]:
        """Values by name, for each architecture and draw.

        Args:
            architectures: Architectures that are the same before the bank.
        """
        maps = self._maps.get(architectures[0])
        good = GoodMaps.of([m[: self._fit] for m in maps])
        of_parts = {name: [m[places] for m in maps] for name, places in self._places.items()}
        by_bank: dict[int, list[Architecture]] = {}
        for architecture in architectures:
            assert architecture.head.bank_size is not None
            by_bank.setdefault(architecture.head.bank_size, []).append(architecture)
        found: dict[Architecture, dict[str, list[float]]] = {}
        defects: dict[str, torch.Tensor] = {}
        for _, members in sorted(by_bank.items(), reverse=True):  # largest first: coresets nest
            aggregator, coreset = self._coresets.get(members[0], good)
            head = head_of_coreset(good, members[0].head, aggregator, coreset, size=EVALUATION_SIZE)
            for architecture, values in self._of_bank(members, head, of_parts, defects):
                found[architecture] = values
        return {
            name: [found[architecture][name] for architecture in architectures]
            for name in (*self.parts, *_MEASURED, "latency")
        }

    def _of_bank(
        self,
        architectures: Sequence[Architecture],
        head: FittedHead,
        of_parts: Mapping[str, Sequence[torch.Tensor]],
        defects: dict[str, torch.Tensor],
    ) -> Iterator[tuple[Architecture, dict[str, list[float]]]]:
        """Architectures with one memory bank, and their values for each draw.

        Args:
            architectures: The architectures.
            head: A head with their bank.
            of_parts: Feature maps of the images of each part.
            defects: Distances to the defect rows, which are the same for all banks; filled by the
                first.
        """
        shot_maps = [m[self._of_shots] for m in of_parts["validation"]]
        patches = self._shots.patches(head, shot_maps)
        most = max(architecture.head.neighbors for architecture in architectures)
        grid = max((m.shape[2], m.shape[3]) for m in shot_maps)
        distances = {}
        for name, part in self.parts.items():
            rows = torch.cat([head.aggregator(batch) for batch in batches_of(of_parts[name])])
            sets = [_joined([patches[shot] for shot in places]) for places in part.sets]
            distances[name] = ShotDistances.of(
                rows, len(part.samples), head.memory, sets, most, defects=defects.get(name)
            )
            defects[name] = distances[name].defects
        knowing = [
            head.knowing(*Known((), tuple(patches[i] for i in drawn)).joined(head.memory.bank))
            for drawn in (_drawn(len(patches), draw) for draw in DRAWS)
        ]
        costs = [
            [self._costs(architectures[0], knows) for knows in (head, each)] for each in knowing
        ]
        alike: dict[tuple[int, float | None], list[Architecture]] = {}
        for architecture in architectures:
            key = architecture.head.neighbors, architecture.head.defects
            alike.setdefault(key, []).append(architecture)
        for (neighbors, weight), members in alike.items():
            smoothings = [architecture.head.smoothing for architecture in members]
            rwap = {
                name: self._rwap(name, distances[name], grid, neighbors, weight, smoothings)
                for name in self.parts
            }
            of_draws = [both[weight is not None] for both in costs]
            found = {name: [of_draw[name] for of_draw in of_draws] for name in of_draws[0]}
            tried = [m[self._of_unseen] for m in of_parts["validation"]]
            if weight is None:
                cases = [self._case(members[0], head, tried)] * len(DRAWS)
            else:
                cases = [self._case(members[0], each, tried) for each in knowing]
            for place, architecture in enumerate(members):
                of_scored = {name: [each[place] for each in rwap[name]] for name in rwap}
                seconds = [
                    self._latency.seconds(replace(case, architecture=architecture))
                    for case in cases
                ]
                yield architecture, {**of_scored, **found, "latency": seconds}

    def _case(
        self, architecture: Architecture, head: FittedHead, maps: Sequence[torch.Tensor]
    ) -> Case:
        """The case of an architecture; the head may have another number of neighbors."""
        memory = copy.copy(head.memory)
        memory.neighbors = architecture.head.neighbors
        return Case.of(
            self.supernet,
            architecture,
            replace(head, memory=memory),
            maps,
            counted=self._latency.needs_counts,
        )

    def _rwap(
        self,
        name: str,
        distances: ShotDistances,
        grid: tuple[int, int],
        neighbors: int,
        weight: float | None,
        smoothings: Sequence[float],
    ) -> list[list[float]]:
        """rwAP on a part for each draw and smoothing."""
        part = self.parts[name]
        types = [sample.type for sample in part.samples]
        found: dict[tuple[int, ...], list[float]] = {}
        of_draws = []
        for draw, scored in enumerate(part.draws):
            # Without known defects, draws differ only in what is scored.
            key = tuple(scored.images) if weight is None else (draw,)
            if key not in found:
                scores = _scores(distances, part.held_out, scored, neighbors, weight)
                of_draw = (
                    self._masks[name][scored.images],
                    [types[image] for image in scored.images],
                )
                found[key] = [
                    region_weighted_average_precision(
                        Upsampling(EVALUATION_SIZE, smoothing)(scores.reshape(-1, *grid)), *of_draw
                    )
                    for smoothing in smoothings
                ]
            of_draws.append(found[key])
        return of_draws

    def _costs(self, architecture: Architecture, head: FittedHead) -> dict[str, float]:
        candidate = FittedCandidate(self.supernet, architecture, head, metrics={}, maps=())
        return {name: OBJECTIVES[name].measure(candidate) for name in _MEASURED}


def _joined(patches: Sequence[KnownPatches]) -> KnownPatches:
    return KnownPatches(
        torch.cat([each.good for each in patches]), torch.cat([each.defects for each in patches])
    )


def _scores(
    distances: ShotDistances,
    held_out: Sequence[int],
    scored: Scored,
    neighbors: int,
    weight: float | None,
) -> torch.Tensor:
    """Scores of the patches of the images of a draw."""
    of_scored = distances.taken(scored.images)
    if weight is None:
        return of_scored.means(torch.zeros_like(scored.known), neighbors=neighbors)
    all_known = scored.all_known.expand(len(held_out), -1)
    usual = usual_distance(distances.taken(held_out).means(all_known, neighbors=neighbors))
    return of_scored.scores(scored.known, neighbors=neighbors, weight=weight, usual=usual)


def load_network() -> Supernet:
    """The network of the tables."""
    return load_supernet(SPACE, str(SHARED / "weights" / f"{SPACE[5:]}.safetensors"))


def small_space(supernet: Supernet) -> SearchSpace:
    """The space of the tables; genes without choices in `CHOICES` are off."""
    space = compose_space(supernet, choices={**Head.off_choices(), **CHOICES})
    return space.narrowed(dict.fromkeys(LEFT_OUT, False))


def all_genomes(space: SearchSpace) -> list[Genome]:
    """All canonical genomes of a space, in ascending order."""
    every = product(*(range(len(gene.choices)) for gene in space.genes))
    return sorted({space.canonical(genome) for genome in every if space.is_valid(genome)})


def groups(space: SearchSpace) -> list[list[Genome]]:
    """The genomes of a space; those of a group have the same patch features. Groups of one image
    size are successive, so that they share feature maps."""
    found: dict[Architecture, list[Genome]] = {}
    for genome in all_genomes(space):
        found.setdefault(before_bank(space.decode(genome)), []).append(genome)
    ordered = sorted(found.items(), key=lambda item: item[0].input.size)
    return [genomes for _, genomes in ordered]


def fill(
    path: Path, evaluate: Exhaustive, space: SearchSpace, about: Mapping[str, str]
) -> dict[Genome, dict[str, list[float]]]:
    """Evaluates the architectures that a file lacks, and appends them to it.

    Args:
        path: The file, see `Record`; each result is a group.
        evaluate: The evaluator.
        space: The space.
        about: The setting.

    Returns:
        The values of every architecture.
    """
    setting = {"space": space.to_json(), "draws": DRAWS, **about}
    record = Record(path, setting)
    found: dict[Genome, dict[str, list[float]]] = {}
    for line in record.results:
        found.update(_values(line))
    every = groups(space)
    missing = [group for group in every if group[0] not in found]
    patches = [_patches(evaluate.supernet, space.decode(group[0])) for group in missing]
    began = time.monotonic()
    for done, group in enumerate(missing, start=1):
        line = {
            "genomes": group,
            "columns": evaluate([space.decode(genome) for genome in group]),
        }
        found.update(_values(line))
        record.add(line)
        seconds = time.monotonic() - began
        left = seconds / sum(patches[:done]) * sum(patches[done:])
        print(
            f"{path.stem}: {len(every) - len(missing) + done} of {len(every)} groups, "
            f"{seconds / 60:.1f} min, about {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
    return found


def _values(line: Mapping[str, Any]) -> dict[Genome, dict[str, list[float]]]:
    return {
        tuple(genome): {name: of_all[place] for name, of_all in line["columns"].items()}
        for place, genome in enumerate(line["genomes"])
    }


def _patches(supernet: Supernet, architecture: Architecture) -> int:
    """Patches of an image: about what the time of a group grows with."""
    height, width = supernet.grid(architecture.backbone, architecture.input.size)
    return height * width


def assemble(
    found: Mapping[Genome, Mapping[str, Sequence[float]]],
    space: SearchSpace,
    about: Mapping[str, str],
) -> Table:
    """The table of all values.

    Args:
        found: The values of each genome.
        space: The space.
        about: The setting.
    """
    genomes = all_genomes(space)
    columns = {
        name: np.array([found[genome][name] for genome in genomes], dtype=np.float64)
        for name in found[genomes[0]]
    }
    return Table(space, DRAWS, np.array(genomes, dtype=np.uint8), columns, about)


def _latency(path: Path, supernet: Supernet, space: SearchSpace, split: Split) -> LatencyTable:
    """The latency table in a file; measured on this machine if there is none."""
    if not path.is_file():
        table = measure_table(
            supernet,
            space,
            good=[sample.image for sample in split.fit],
            queries=[sample.image for sample in (*split.holdout, *split.validation)],
            progress=lambda step, done, total: print(
                f"\r{step}: {done} of {total}   ", end="", file=sys.stderr
            ),
        )
        print(file=sys.stderr)
        table.save(path)
    return LatencyTable.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    supernet = load_network()
    space = small_space(supernet)
    for name in arguments.sets:
        split = make_split(
            MVTecAD.scan(SHARED / "data" / name), shots=RESERVE, reserve=RESERVE, seed=SEED
        )
        latency = _latency(arguments.out / f"{name}_latency.json", supernet, space, split)
        about = {
            "set": name,
            "network": SPACE,
            "split": f"random, seed {SEED}",
            "fit_images": str(len(split.fit)),
            "latency": latency.describe(),
        }
        evaluate = Exhaustive(supernet, split, latency)
        found = fill(arguments.out / f"{name}.jsonl", evaluate, space, about)
        assemble(found, space, about).save(RESULTS / f"{name}.npz")


if __name__ == "__main__":
    main()
