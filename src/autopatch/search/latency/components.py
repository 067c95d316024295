"""The components of a detector's latency: what is measured of each, and how it is read."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from autopatch.detector import (
    STEPS,
    Architecture,
    FeatureTransform,
    FittedHead,
    Head,
    PatchAggregator,
    Step,
)
from autopatch.errors import InputError
from autopatch.genes import Choice, Setting
from autopatch.kernels import (
    NearestNeighborIndex,
    aggregate_patches,
    greedy_coreset,
    nearest_neighbors,
)
from autopatch.registry import Registry
from autopatch.search.latency.timing import Work
from autopatch.supernet import Backbone, Level, Subnet, Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace

_MOST_SETS = 15  # sets of levels that are measured; others are interpolated
_QUERIES = (64, 512)
_DRAWS = 500  # backbones from which those that cover all settings are chosen
_MOST_ENUMERATED = 4096  # sets of levels
_SEED = 0


Key = tuple[str, ...]
"""What a work is, such as set of levels, patch size, rows and queries."""


@dataclass(frozen=True)
class Case:
    """A candidate whose latency is read.

    Attributes:
        supernet: Its supernet.
        architecture: Its architecture.
        banks: Number of rows of each bank that its patches are searched in.
        batch: Images per batch.
    """

    supernet: Supernet
    architecture: Architecture
    banks: tuple[int, ...]
    batch: int = 1

    @classmethod
    def of(cls, supernet: Supernet, architecture: Architecture, head: FittedHead) -> Case:
        """The case of a fitted candidate."""
        banks = (len(head.memory), len(head.defects))
        return cls(supernet, architecture, tuple(rows for rows in banks if rows))

    @property
    def size(self) -> int:
        """Image size in pixels."""
        return self.architecture.input.size

    @property
    def levels(self) -> tuple[Level, ...]:
        """The selected levels."""
        return self.supernet.levels(self.architecture.backbone)

    @property
    def queries(self) -> int:
        """Patches per batch."""
        grid = self.supernet.grid(self.architecture.backbone, self.size)
        return self.batch * math.prod(grid)


class Component(Protocol):
    """A part of a detector's latency."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """What to time, each with a key of its own."""
        ...

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """What `seconds` needs, as JSON values.

        Args:
            timed: The keys of `works`, and the median seconds of the parts of each work.
        """
        ...

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """Raises InputError unless the values cover a search space."""
        ...

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """Seconds per batch of a candidate.

        Raises:
            InputError: The values do not cover it.
        """
        ...


class BackboneStages:
    """The stages of the backbone, with the normalization of the image.

    Each stage is timed inside networks of which each covers some of the stages' settings. The time
    of a backbone is the sum over its stages (`Supernet.stages`).
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each network and image size; its parts are the stages."""
        works: list[tuple[Key, Work]] = []
        for backbone in bench.covering:
            stages = bench.supernet.stages(backbone)
            subnet = bench.subnet(backbone, max(bench.sizes))
            works += [((*stages, str(size)), _Staged(subnet, bench, size)) for size in bench.sizes]
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by stage and image size."""
        found: dict[str, dict[str, list[float]]] = {}
        for (*stages, size), parts in timed:
            for stage, seconds in zip(stages, parts, strict=True):
                found.setdefault(stage, {}).setdefault(size, []).append(seconds)
        return {
            stage: {size: float(np.median(each)) for size, each in of_size.items()}
            for stage, of_size in found.items()
        }

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        sizes = {int(size) for of_size in values.values() for size in of_size}
        _require_within("image size", sizes, space.choices("input", "image_size"))
        for backbone in covering_backbones(supernet, space):
            for stage in supernet.stages(backbone):
                _of(values, stage, "stage")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        total = 0.0
        for stage in case.supernet.stages(case.architecture.backbone):
            curve = {int(size): seconds for size, seconds in _of(values, stage, "stage").items()}
            _require_within("image size", curve, [case.size])
            total += _interpolated(curve, case.size)
        return total


class Aggregation:
    """Pooling, resizing and concatenation of the feature maps."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each set of levels, patch size, and the smallest and the largest image size."""
        works: list[tuple[Key, Work]] = []
        for size in sorted({bench.sizes[0], bench.sizes[-1]}):
            for name, backbone in bench.level_sets.items():
                maps = [m[: bench.batch] for m in bench.query_maps(backbone, size)]
                for patch_size in bench.patch_sizes:
                    work = _whole(partial(aggregate_patches, maps, (patch_size,) * len(maps)))
                    works.append(((name, str(patch_size), str(size)), work))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by set of levels, patch size and image size."""
        return _nested(timed)

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for backbone in all_level_sets(supernet, space).values():
            _of_levels(values, supernet.levels(backbone))

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""

        def of_set(measured: Mapping[str, Any]) -> float:
            curve = {
                int(patch_size): _interpolated(_numbers(of_size), case.size)
                for patch_size, of_size in measured.items()
            }
            return _interpolated(curve, _mean_patch_size(case), clamped=True)

        return _at_levels(values, case.levels, of_set)


class NearestNeighbors:
    """The search of the patches in the memory bank, and in the bank of known defects.

    Banks are coresets of patches of good images, and queries are patches of other images, because
    the kernel skips rows that cannot be near: how many depends on the features. The time is linear
    in the number of queries; between numbers of rows and patch sizes it is interpolated in
    logarithms.

    Several neighbors and steps on the features change the time by a factor, which is measured on
    the sets of levels with the fewest and the most channels.
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each set of levels, patch size, number of rows and number of queries, and for
        each option with and without it, at the middle image size."""
        works: list[tuple[Key, Work]] = []
        for number, (name, backbone) in enumerate(bench.level_sets.items()):
            bench.told("banks", number, len(bench.level_sets))
            for patch_size in bench.patch_sizes:
                patches, queries = self._patches(bench, backbone, patch_size)
                rows = _coreset(patches, bench.rows[-1])
                for count in sorted({min(count, len(rows)) for count in bench.rows}):
                    index = NearestNeighborIndex(rows[:count])
                    for asked in sorted({min(n, len(queries)) for n in _QUERIES}):
                        chosen = queries[_spread(len(queries), asked)]
                        work = _whole(partial(nearest_neighbors, chosen, index))
                        key = (name, str(patch_size), str(count), str(len(chosen)))
                        works.append((("sets", *key), work))
        neighbors = [int(str(k)) for k in bench.choices("neighbors") if k != 1]
        steps = [each for each in step_values(bench.space) if each.features(8, (8,)) is not None]
        for name in bench.extreme_sets if neighbors or steps else ():
            backbone = bench.level_sets[name]
            patches, queries = self._patches(bench, backbone, bench.patch_sizes[0])
            queries = queries[_spread(len(queries), min(_QUERIES[-1], len(queries)))]
            count = min(bench.rows[len(bench.rows) // 2], len(patches))
            plain = NearestNeighborIndex(_coreset(patches, count))
            works.append(
                (("factors", "", name), _whole(partial(nearest_neighbors, queries, plain)))
            )
            for k in neighbors:
                work = _whole(partial(nearest_neighbors, queries, plain, min(k, count)))
                works.append((("factors", f"neighbors {k}", name), work))
            channels = tuple(level.channels for level in bench.supernet.levels(backbone))
            for step in steps:
                module = step.features(sum(channels), channels)
                assert module is not None
                module.to(bench.device).fit([patches])
                index = NearestNeighborIndex(_coreset(module(patches), count))
                work = _whole(partial(nearest_neighbors, module(queries), index))
                works.append((("factors", step.name, name), work))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by set of levels, patch size, rows and queries; factors by option."""
        nested = _nested(timed)
        factors = nested.pop("factors", {})
        plain = factors.pop("", {})
        ratios = {
            option: [seconds / plain[name] for name, seconds in of_set.items()]
            for option, of_set in factors.items()
        }
        return {
            **nested,
            "factors": {option: float(np.prod(r) ** (1 / len(r))) for option, r in ratios.items()},
        }

    def _patches(
        self, bench: Bench, backbone: Backbone, patch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of good images, and queries."""
        size = bench.sizes[len(bench.sizes) // 2]
        sides = (patch_size,) * len(backbone.levels)
        patches = bench.sampled(bench.good_maps(backbone, size), sides)
        queries: torch.Tensor = aggregate_patches(bench.query_maps(backbone, size), sides)
        return patches, queries

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for backbone in all_level_sets(supernet, space).values():
            _of_levels(values["sets"], supernet.levels(backbone))

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        head, factors = case.architecture.head, values["factors"]
        factor = 1.0
        if head.neighbors != 1:
            factor *= _of(factors, f"neighbors {head.neighbors}", "option")
        for name, value in head.active_steps():
            each = [_step_name(name, one) for one in _listed(value)]
            factor *= max((factors[one] for one in each if one in factors), default=1.0)
        return factor * sum(self._one(values["sets"], case, rows) for rows in case.banks)

    def _one(self, values: Mapping[str, Any], case: Case, rows: int) -> float:
        def of_set(measured: Mapping[str, Any]) -> float:
            curve = {}
            for patch_size, of_rows in measured.items():
                of_count = {
                    int(count): _linear(_numbers(of_queries), case.queries)
                    for count, of_queries in of_rows.items()
                }
                curve[int(patch_size)] = _interpolated(of_count, rows)
            return _interpolated(curve, _mean_patch_size(case), clamped=True)

        return _at_levels(values, case.levels, of_set)


@dataclass(frozen=True)
class StepValue:
    """An optional step of the head with a value that candidates may have.

    Attributes:
        name: Name of step and value in tables.
        step: The step.
        value: The value; of a step with a value for each level, that of all levels.
    """

    name: str
    step: Step
    value: Choice

    def setting(self, levels: int) -> Setting:
        """The setting of a head with so many levels."""
        return (self.value,) * levels if self.step.per_level else self.value

    def features(self, features: int, channels: tuple[int, ...]) -> FeatureTransform | None:
        """See `Step.features`."""
        return self.step.features(self.setting(len(channels)), features, channels)


class Steps:
    """The optional steps of the head.

    The time is linear in the number of patches, and interpolated in the number of features. A step
    with values for each level is assumed to take as long as its slowest measured value.
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each value of a step, the sets of levels with the fewest and the most channels,
        and two numbers of patches."""
        works: list[tuple[Key, Work]] = []
        for step in step_values(bench.space):
            for name in bench.extreme_sets:
                levels = bench.supernet.levels(bench.level_sets[name])
                channels = tuple(level.channels for level in levels)
                for queries in _QUERIES:
                    key = (step.name, str(sum(channels)), str(queries))
                    works.append((key, self._work(bench, step, channels, queries)))
        return works

    @staticmethod
    def _work(bench: Bench, step: StepValue, channels: tuple[int, ...], queries: int) -> Work:
        generator = torch.Generator("cpu").manual_seed(_SEED)
        patches = torch.rand((queries, sum(channels)), generator=generator, device="cpu")
        patches = patches.to(bench.device)
        scores = torch.ones(queries, device=bench.device)
        maps = torch.ones((bench.batch, bench.side, bench.side), device=bench.device)
        transform = step.features(sum(channels), channels)
        features = sum(channels)
        if transform is not None:
            transform.to(bench.device).fit([patches])
            features = transform.out_features
        on_scores = step.step.scores(step.setting(len(channels)), features)
        on_maps = step.step.maps(step.setting(len(channels)), bench.side)
        transformed = patches if transform is None else transform(patches)
        if on_scores is not None:
            on_scores.to(bench.device).fit([transformed])
        if on_maps is not None:
            on_maps.to(bench.device)

        def run() -> None:
            rows = patches if transform is None else transform(patches)
            if on_scores is not None:
                on_scores(rows, scores)
            if on_maps is not None:
                on_maps(maps)

        return _whole(run)

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by step with its value, features and patches."""
        return _nested(timed)

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for step in step_values(space):
            _of(values, step.name, "step")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        total = 0.0
        for name, value in case.architecture.head.active_steps():
            known = [one for one in (_step_name(name, v) for v in _listed(value)) if one in values]
            if not known:
                _of(values, _step_name(name, value), "step")
            total += max(self._one(values[one], case) for one in known)
        return total

    @staticmethod
    def _one(measured: Mapping[str, Any], case: Case) -> float:
        curve = {
            int(features): _linear(_numbers(of_queries), case.queries)
            for features, of_queries in measured.items()
        }
        return _interpolated(curve, _channels(case.levels))


class Upsampling:
    """Resizing and smoothing of the distances to the anomaly map, and its maximum."""

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each strength of smoothing and each of three numbers of patches."""
        grids = sorted(
            {
                bench.supernet.grid(backbone, size)
                for backbone in bench.level_sets.values()
                for size in bench.sizes
            }
        )
        works: list[tuple[Key, Work]] = []
        for smoothing in bench.choices("smoothing") or [0]:
            head = FittedHead.of(
                Head((1,), smoothing=float(str(smoothing))),
                PatchAggregator((1,)),
                torch.zeros((1, 1), device=bench.device),
                radius=0.0,
                size=bench.side,
            )
            for place in sorted({0, len(grids) // 2, len(grids) - 1}):
                patches = torch.zeros((bench.batch, *grids[place], 1), device=bench.device)
                key = (str(float(str(smoothing))), str(bench.batch * math.prod(grids[place])))
                works.append((key, _whole(partial(self._run, head, patches))))
        return works

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by smoothing and number of patches per batch."""
        return _nested(timed)

    @staticmethod
    def _run(head: FittedHead, patches: torch.Tensor) -> None:
        head.maps_of(patches, patches.flatten()).flatten(1).amax(dim=1)

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for smoothing in space.choices("head", "smoothing"):
            _of(values, str(float(str(smoothing))), "smoothing")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        measured = _of(values, str(float(case.architecture.head.smoothing)), "smoothing")
        return _interpolated(_numbers(measured), case.queries, clamped=True)


COMPONENTS: Registry[Component] = Registry(
    "component of the latency",
    {
        "backbone": "autopatch.search.latency.components:BACKBONE",
        "aggregation": "autopatch.search.latency.components:AGGREGATION",
        "nearest_neighbors": "autopatch.search.latency.components:NEAREST_NEIGHBORS",
        "steps": "autopatch.search.latency.components:STEPS_OF_HEAD",
        "upsampling": "autopatch.search.latency.components:UPSAMPLING",
    },
)
"""Components by name. A candidate's latency is the sum over all that are in a table."""

BACKBONE = BackboneStages()
AGGREGATION = Aggregation()
NEAREST_NEIGHBORS = NearestNeighbors()
STEPS_OF_HEAD = Steps()
UPSAMPLING = Upsampling()


def step_values(space: SearchSpace) -> list[StepValue]:
    """The steps of a space, with each value that is not off."""
    return [
        StepValue(_step_name(name, value), STEPS[name], value)
        for name in STEPS
        for value in dict.fromkeys(space.choices("head", name))
        if value != STEPS[name].off
    ]


def _step_name(name: str, value: object) -> str:
    return f"{name} {value}"


def covering_backbones(supernet: Supernet, space: SearchSpace) -> list[Backbone]:
    """Backbones with all levels that have every setting of every stage of a space, each in at least
    one of them."""
    originals = {gene.name: gene for gene in supernet.genes()}
    genes = []
    for gene in space.genes:
        if gene.is_level:
            levels = tuple(choice for choice in gene.choices if choice not in (None, False))
            if not levels:  # never selected, but its layers run before deeper levels
                levels = tuple(c for c in originals[gene.name].choices if c not in (None, False))
            gene = replace(gene, choices=levels)
        genes.append(gene)
    whole = replace(space, genes=tuple(genes))
    rng = np.random.default_rng(_SEED)
    drawn = {whole.decode(whole.sample(rng)).backbone: None for _ in range(_DRAWS)}
    stages = {backbone: set(supernet.stages(backbone)) for backbone in drawn}
    missing: set[str] = set().union(*stages.values())
    chosen = []
    while missing:
        best = max(drawn, key=lambda backbone: len(stages[backbone] & missing))
        chosen.append(best)
        missing -= stages[best]
    return chosen


def all_level_sets(supernet: Supernet, space: SearchSpace) -> dict[str, Backbone]:
    """Sets of levels that candidates of a space may have, by name, as the largest backbones with
    these levels. Sets with the same strides and channels are one."""
    found: dict[str, Backbone] = {}
    for network in supernet.networks:
        known = {level.index: level for level in supernet.all_levels(network)}
        sets: list[tuple[int, ...]] = [()]
        for gene in space.genes:
            if gene.is_level:
                chosen = [gene.level(choice) for choice in range(len(gene.choices))]
                # Of the levels of a slot with the same shape, one stands for all.
                shapes = {(known[i].stride, known[i].channels): i for i in chosen if i is not None}
                slot: list[tuple[int, ...]] = [(index,) for index in shapes.values()]
                if None in chosen and len(sets) * (len(slot) + 1) <= _MOST_ENUMERATED:
                    slot.append(())
                sets = [(*levels, *level) for levels in sets for level in slot]
        for levels in sets:
            if levels:
                backbone = replace(supernet.largest(sorted(levels)), network=network)
                found[set_name(supernet.levels(backbone))] = backbone
    return found


def measured_sets(supernet: Supernet, sets: Mapping[str, Backbone]) -> dict[str, Backbone]:
    """The sets of levels to measure: all if they are few, else those with the least, the middle and
    the most channels for each finest stride."""
    if len(sets) <= _MOST_SETS:
        return dict(sets)
    by_stride: dict[int, list[tuple[int, str]]] = {}
    for name, backbone in sets.items():
        levels = supernet.levels(backbone)
        by_stride.setdefault(levels[0].stride, []).append((_channels(levels), name))
    chosen = []
    for names in by_stride.values():
        names.sort()
        chosen += [names[i][1] for i in sorted({0, len(names) // 2, len(names) - 1})]
    return {name: sets[name] for name in chosen}


def set_name(levels: Sequence[Level]) -> str:
    """Name of a set of levels in tables, such as "8:32 16:96": stride and channels of each."""
    return " ".join(f"{level.stride}:{level.channels}" for level in levels)


def _channels(levels: Sequence[Level]) -> int:
    return sum(level.channels for level in levels)


class _Staged:
    """A forward pass of a subnet; tells the seconds of each of its stages."""

    def __init__(self, subnet: Subnet, bench: Bench, size: int) -> None:
        self._subnet = subnet
        self._clock = bench.clock
        self._pixels = bench.pixels(size)
        self._marks: dict[int, float] = {}
        self._ends = self._find_ends()

    def _find_ends(self) -> list[nn.Module | None]:
        """The module that computes each map, if it is one module."""
        outputs: list[tuple[torch.Tensor, nn.Module]] = []
        handles = [
            part.register_forward_hook(lambda part, _, output: outputs.append((output, part)))
            for part in self._subnet.network.modules()
        ]
        with torch.inference_mode():
            maps = self._subnet.network(self._subnet.normalize(self._pixels))
        for handle in handles:
            handle.remove()
        ends = []
        for one in maps:
            makers = [part for output, part in outputs if output is one]
            ends.append(makers[0] if makers else None)
        return ends

    def __call__(self) -> list[float]:
        marks: dict[int, float] = {}
        handles = [
            part.register_forward_hook(
                lambda *_, number=number: marks.update({number: self._clock.now()})
            )
            for number, part in enumerate(self._ends)
            if part is not None
        ]
        started = self._clock.now()
        with torch.inference_mode():
            self._subnet(self._subnet.normalize(self._pixels))
        marks[len(self._ends) - 1] = self._clock.now()
        for handle in handles:
            handle.remove()
        seconds: list[float] = []
        before, done = started, 0
        for number in range(len(self._ends)):
            if number in marks:  # stages whose end is unknown share the time up to the next end
                share = (marks[number] - before) / (number + 1 - done)
                seconds += [share] * (number + 1 - done)
                before, done = marks[number], number + 1
        return seconds


def _coreset(patches: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` rows, in the order in which they are picked."""
    picks, _ = greedy_coreset(patches, min(count, len(patches)), seed=_SEED)
    rows: torch.Tensor = patches[picks]
    return rows


def _whole(run: Callable[[], object]) -> Work:
    """A work that is timed as a whole."""

    def work() -> None:
        with torch.inference_mode():
            run()

    return work


def _spread(count: int, wanted: int) -> torch.Tensor:
    """Indices of `wanted` of `count` queries: eight runs of neighbors."""
    runs = 8 if wanted >= 64 else 1
    starts = torch.linspace(0, max(count - wanted // runs, 0), runs, device="cpu").long()
    places = starts[:, None] + torch.arange(wanted // runs, device="cpu")
    return torch.tensor(sorted(set(places.flatten().tolist())), device="cpu")


def _mean_patch_size(case: Case) -> float:
    """Geometric mean of the patch sizes, weighted by the channels of their levels."""
    sizes = case.architecture.head.patch_sizes
    logs = sum(level.channels * math.log(p) for level, p in zip(case.levels, sizes, strict=True))
    return math.exp(logs / _channels(case.levels))


def _at_levels(values: Mapping[str, Any], levels: Sequence[Level], read: Any) -> float:
    """Reads a value at a set of levels: as measured, or interpolated in the number of channels
    among measured sets with the same finest stride."""
    name = set_name(levels)
    if name in values:
        return float(read(values[name]))
    similar = _of_levels(values, levels)
    curve: dict[int, float] = {}
    for other, measured in similar.items():
        curve[sum(int(part.partition(":")[2]) for part in other.split())] = read(measured)
    return _interpolated(curve, _channels(levels))


def _of_levels(values: Mapping[str, Any], levels: Sequence[Level]) -> dict[str, Any]:
    name = set_name(levels)
    found = {
        other: measured
        for other, measured in values.items()
        if other == name or other.startswith(f"{levels[0].stride}:")
    }
    if not found:
        raise InputError(
            f"the latency table has no set of levels whose finest stride is {levels[0].stride}"
        )
    return found


def _of(values: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in values:
        raise InputError(f"the latency table has no {what} {name!r}")
    return values[name]


def _listed(value: Setting) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _require_within(what: str, known: Iterable[int], wanted: Iterable[Any]) -> None:
    measured = sorted(known)
    for value in wanted:
        if not measured[0] <= value <= measured[-1]:
            raise InputError(
                f"the latency table covers the {what}s {measured[0]} to {measured[-1]}, but not "
                f"{value}"
            )


def _numbers(values: Mapping[str, float]) -> dict[int, float]:
    return {int(key): value for key, value in values.items()}


def _interpolated(curve: Mapping[int, float], at: float, *, clamped: bool = False) -> float:
    """A value between measured ones, linear in the logarithms of both; outside of them the line
    through the two nearest goes on, unless it is `clamped`."""
    known = sorted(curve)
    if len(known) == 1 or (clamped and not known[0] < at < known[-1]):
        return curve[known[0] if at <= known[0] else known[-1]]
    after = min(max(bisect_left(known, at), 1), len(known) - 1)
    x0, x1 = math.log(known[after - 1]), math.log(known[after])
    y0, y1 = (math.log(max(curve[known[i]], 1e-9)) for i in (after - 1, after))
    return math.exp(y0 + (y1 - y0) * (math.log(at) - x0) / (x1 - x0))


def _linear(curve: Mapping[int, float], at: float) -> float:
    """A value on the line through the smallest and the largest measured one, but at least
    proportional to the largest."""
    first, last = min(curve), max(curve)
    if first == last:
        return curve[last] * at / last
    slope = max((curve[last] - curve[first]) / (last - first), 0.0)
    return max(curve[last] + slope * (at - last), 0.0) or curve[first]


def _nested(timed: Iterable[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
    """Seconds by the parts of their keys."""
    result: dict[str, Any] = {}
    for key, (seconds,) in timed:
        inner = result
        for part in key[:-1]:
            inner = inner.setdefault(part, {})
        inner[key[-1]] = seconds
    return result
