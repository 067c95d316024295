"""Misplaced content: a region shows another place of the same image."""

from __future__ import annotations

import numpy as np

from autopatch.data.synthetic.kinds.kind import between, region_kind, shift
from autopatch.data.synthetic.noise import FloatArray
from autopatch.data.synthetic.scene import Place, Scene, sampled, turned

_AMOUNTS = (4.0, 50.0)
_SCALES = (0.8, 1.25)
_CONTRASTS = (0.7, 1.3)
_POINTS = 6  # of so many points of the foreground, the one farthest away is copied


def colors(scene: Scene, place: Place, strength: float, rng: np.random.Generator) -> FloatArray:
    """Copies another part of the image, turned, a little scaled, and toned."""
    points = [scene.foreground.point(rng) for _ in range(_POINTS)]
    row, column = place.center
    center = max(points, key=lambda point: np.hypot(point[0] - row, point[1] - column))
    scale = rng.uniform(*_SCALES)
    copied = sampled(scene.pixels, *turned(place.shape, center, rng.uniform(0, 2 * np.pi), scale))
    contrast = np.float32(rng.uniform(*_CONTRASTS))
    mean, amount = copied.mean(axis=(0, 1)), shift(rng, copied, place, between(*_AMOUNTS, strength))
    toned: FloatArray = mean + contrast * (copied - mean) + amount
    return toned


CUTPASTE = region_kind(colors)
"""The kind `"cutpaste"` of `KINDS`."""
