"""Sets of feature levels, and backbones that cover all settings of a space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autopatch.errors import InputError
from autopatch.search.latency.curves import interpolated
from autopatch.supernet import Backbone, Level, Supernet

if TYPE_CHECKING:
    from autopatch.search.space import SearchSpace

_MOST_SETS = 15  # sets of levels that are measured; others are interpolated
_MOST_ENUMERATED = 4096  # sets of levels
_DRAWS = 500  # backbones from which those that cover all settings are chosen
_SEED = 0


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
    """Sets of levels that candidates of a space or the PatchCore baseline have, by name, as the
    largest backbones with these levels. Sets with the same strides and channels are one."""
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
    baseline = supernet.patchcore()
    if baseline is not None:
        found.setdefault(set_name(supernet.levels(baseline)), baseline)
    return found


def measured_sets(supernet: Supernet, sets: Mapping[str, Backbone]) -> dict[str, Backbone]:
    """The sets of levels to measure: all if they are few, else those with the least, the middle and
    the most channels for each finest stride."""
    if len(sets) <= _MOST_SETS:
        return dict(sets)
    by_stride: dict[int, list[tuple[int, str]]] = {}
    for name, backbone in sets.items():
        levels = supernet.levels(backbone)
        by_stride.setdefault(levels[0].stride, []).append((channels_of(levels), name))
    chosen = []
    for names in by_stride.values():
        names.sort()
        chosen += [names[i][1] for i in sorted({0, len(names) // 2, len(names) - 1})]
    return {name: sets[name] for name in chosen}


def set_name(levels: Sequence[Level]) -> str:
    """Name of a set of levels in tables, such as "8:32 16:96": stride and channels of each."""
    return " ".join(f"{level.stride}:{level.channels}" for level in levels)


def channels_of(levels: Sequence[Level]) -> int:
    """Number of channels of all levels together."""
    return sum(level.channels for level in levels)


def at_levels(
    values: Mapping[str, Any], levels: Sequence[Level], read: Callable[[Mapping[str, Any]], float]
) -> float:
    """Reads a value at a set of levels: as measured, or interpolated in the number of channels
    among measured sets with the same finest stride.

    Args:
        values: What was measured, by name of the set.
        levels: The set.
        read: Reads the value from what was measured at one set.
    """
    name = set_name(levels)
    if name in values:
        return float(read(values[name]))
    similar = require_levels(values, levels)
    curve: dict[int, float] = {}
    for other, measured in similar.items():
        curve[sum(int(part.partition(":")[2]) for part in other.split())] = read(measured)
    return interpolated(curve, channels_of(levels))


def require_levels(values: Mapping[str, Any], levels: Sequence[Level]) -> dict[str, Any]:
    """What was measured at the sets with the finest stride of the given levels, by name.

    Raises:
        InputError: There is none.
    """
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
