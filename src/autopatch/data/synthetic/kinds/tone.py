"""Tone: a region is brighter or darker, and has more or less contrast."""

from __future__ import annotations

import numpy as np

from autopatch.data.synthetic.kinds.kind import between, region_kind, shift
from autopatch.data.synthetic.noise import FloatArray, smooth_noise
from autopatch.data.synthetic.scene import Place, Scene

_AMOUNTS = (8.0, 70.0)
_CONTRASTS = (1.1, 2.2)  # or one divided by them


def colors(scene: Scene, place: Place, strength: float, rng: np.random.Generator) -> FloatArray:
    """Changes brightness and contrast, by amounts that vary a little over the region."""
    content = scene.content(place)
    contrast = between(*_CONTRASTS, rng.uniform(0, strength)) ** rng.choice([-1, 1])
    mean = np.average(content, axis=(0, 1), weights=place.weight + 1e-6).astype(np.float32)
    amount = shift(rng, content, place, between(*_AMOUNTS, strength))
    cell = max(float(np.sqrt(place.mask.sum())), 2.0)
    cloud = 1 + 0.3 * smooth_noise(rng, place.shape, cell)[..., None].clip(-2, 2)
    toned: FloatArray = mean + np.float32(contrast) * (content - mean) + cloud * amount
    return toned


TONE = region_kind(colors)
"""The kind `"tone"` of `KINDS`."""
