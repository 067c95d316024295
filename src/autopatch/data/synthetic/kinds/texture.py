"""Foreign texture: a region shows another image of the set, or a drawn texture."""

from __future__ import annotations

import numpy as np

from autopatch.data.synthetic.kinds.kind import between, region_kind
from autopatch.data.synthetic.noise import FloatArray, drawn_texture
from autopatch.data.synthetic.scene import Place, Scene, sampled, turned

_OPACITIES = (0.3, 0.95)


def colors(scene: Scene, place: Place, strength: float, rng: np.random.Generator) -> FloatArray:
    """Blends the content with a texture, half of them from other images and half drawn."""
    if rng.random() < 0.5:
        pixels = scene.other(rng)
        center = tuple(rng.uniform(size=2) * pixels.shape[:2])
        scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
        points = turned(place.shape, center, rng.uniform(0, 2 * np.pi), scale)
        texture = sampled(pixels, *points)
    else:
        texture = drawn_texture(rng, place.shape, scene.unit, scene.channels)
    content = scene.content(place)
    opacity = np.float32(between(*_OPACITIES, strength))
    blended: FloatArray = content + opacity * (texture - content)
    return blended


TEXTURE = region_kind(colors)
"""The kind `"texture"` of `KINDS`."""
