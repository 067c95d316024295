"""The architectures that a search evaluates first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autopatch.detector import (
    DEFAULT_DEFECT_WEIGHT,
    STEPS,
    Architecture,
    Head,
    patchcore_architecture,
)
from autopatch.errors import InputError
from autopatch.runs.source import Inputs
from autopatch.search import SearchSpace

USUAL_STRIDES = ((8, 16), (4, 8), (4, 8, 16))
"""Sets of levels, by stride, beginning with those of PatchCore."""


def initial_architectures(space: SearchSpace, inputs: Inputs) -> tuple[Architecture, ...]:
    """Architectures that a search evaluates first.

    The first is the PatchCore baseline with the nearest bank size of the space, and with known
    defects if the space has no detectors without. So the front is never worse than it on the
    validation set. The others are the same with the usual sets of levels, at each image size of the
    space, beginning with those nearest to that of the baseline. Architectures that the space does
    not contain, or that are too slow, are left out.
    """
    baseline = patchcore_architecture(inputs.supernet, images=len(inputs.split.good))
    sizes = [size for size in space.choices("head", "bank_size") if isinstance(size, int)]
    if baseline is None or not sizes or baseline.head.bank_size is None:
        return ()
    rows, pixels = baseline.head.bank_size, baseline.input.size
    head = replace(baseline.head, bank_size=min(sizes, key=lambda size: abs(size - rows)))
    backbones = [inputs.supernet.of_strides(strides) for strides in USUAL_STRIDES]
    image_sizes = [size for size in space.choices("input", "image_size") if isinstance(size, int)]
    found = []
    for size in sorted(image_sizes, key=lambda size: abs(size - pixels)):
        for backbone in backbones:
            if backbone is None:
                continue
            patch_sizes = head.patch_sizes[:1] * len(backbone.levels)
            architecture = Architecture(
                replace(baseline.input, size=size),
                backbone,
                _with_only_choices(replace(head, patch_sizes=patch_sizes), space),
            )
            try:
                genome = space.encode(architecture)
            except InputError:
                continue
            if space.is_allowed(genome):
                found.append(architecture)
    return tuple(found)


def _with_only_choices(head: Head, space: SearchSpace) -> Head:
    """The head with the values of optional fields that are the only ones in the space, and with
    about the usual weight for known defects if the space has no detectors without."""
    fields: dict[str, Any] = {}
    steps = dict(head.steps)
    for name in Head.off_choices():
        values = set(space.choices("head", name))
        if name == "defects" and None not in values:
            weights = [value for value in values if isinstance(value, int | float)]
            values = set(sorted(weights, key=lambda w: abs(w - DEFAULT_DEFECT_WEIGHT))[:1])
        if len(values) != 1:
            continue
        (value,) = values
        if name not in STEPS:
            fields[name] = value
        else:
            levels = len(head.patch_sizes)
            steps[name] = (value,) * levels if STEPS[name].per_level else value
    return replace(head, steps=steps, **fields)
