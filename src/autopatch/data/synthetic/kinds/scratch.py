"""Scratches: thin lines, brighter or darker than their surroundings."""

from __future__ import annotations

import numpy as np

from autopatch.data.synthetic.kinds.kind import Kind, between, shift
from autopatch.data.synthetic.noise import smooth_noise
from autopatch.data.synthetic.scene import Patch, Scene
from autopatch.data.synthetic.shapes import line

SCRATCH_AREAS = (0.0004, 0.015)
"""Smallest and largest area of a scratch, as a share of the image."""

_AMOUNTS = (25.0, 90.0)
_COVERING = 0.4  # share of scratches that hide the texture below them
_HIDDEN = 0.8  # share of the texture that these hide


def draw(scene: Scene, area: float, strength: float, rng: np.random.Generator) -> Patch:
    """Draws a straight, bent or wandering line whose tone varies along it."""
    place = scene.put(line(scene, area, rng), rng, inside_only=True)
    content = scene.content(place)
    amount = shift(rng, content, place, between(*_AMOUNTS, strength))
    depth = 1 + 0.25 * smooth_noise(rng, place.shape, 12 * scene.unit)[..., None]
    if rng.random() < _COVERING:
        mean = np.average(content, axis=(0, 1), weights=place.weight + 1e-6)
        content += np.float32(_HIDDEN) * (mean.astype(np.float32) - content)
    return Patch(place, content + depth.clip(0.4, 1.6).astype(np.float32) * amount)


SCRATCH = Kind(draw, areas=SCRATCH_AREAS)
"""The kind `"scratch"` of `KINDS`."""
