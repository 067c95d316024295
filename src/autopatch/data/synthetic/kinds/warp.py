"""Warp: the content of a region is displaced."""

from __future__ import annotations

import numpy as np

from autopatch.data.synthetic.kinds.kind import between, region_kind
from autopatch.data.synthetic.noise import FloatArray, smooth_noise
from autopatch.data.synthetic.scene import Place, Scene, sampled

_DISTANCES = (2.0, 9.0)  # in pixels at 224
_FARTHEST = 0.5  # in square roots of the area


def colors(scene: Scene, place: Place, strength: float, rng: np.random.Generator) -> FloatArray:
    """Shifts the content in one direction, and waves, pinches or turns it."""
    extent = max(float(np.sqrt(place.mask.sum())), 2.0)
    distance = min(scene.unit * between(*_DISTANCES, strength), _FARTHEST * extent)
    rows, columns = np.indices(place.shape, np.float32)
    rows += place.rows.start
    columns += place.columns.start
    down, across = rows - place.center[0], columns - place.center[1]
    direction = rng.uniform(0, 2 * np.pi)
    move = np.float32(0.6 * distance) * np.array([np.sin(direction), np.cos(direction)])
    form = rng.integers(3)
    if form == 0:
        waves = [smooth_noise(rng, place.shape, 0.6 * extent, octaves=2) for _ in range(2)]
        bend_down, bend_across = (np.float32(0.8 * distance) * wave for wave in waves)
    else:
        rate = np.float32(rng.choice([-1, 1]) * distance / (0.4 * extent))
        bend_down, bend_across = rate * down, rate * across
        if form == 1:
            bend_down, bend_across = bend_across, -bend_down
    return sampled(scene.pixels, rows + move[0] + bend_down, columns + move[1] + bend_across)


WARP = region_kind(colors)
"""The kind `"warp"` of `KINDS`."""
