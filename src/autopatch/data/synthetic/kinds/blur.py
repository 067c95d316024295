"""Blur: a region is smeared."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autopatch.data.synthetic.kinds.kind import between, region_kind
from autopatch.data.synthetic.noise import FloatArray
from autopatch.data.synthetic.scene import Place, Scene

_WIDTHS = (3.0, 12.0)  # width of the smear in pixels at 224
_MOST_STRETCHED = 4.0


def colors(scene: Scene, place: Place, strength: float, rng: np.random.Generator) -> FloatArray:
    """Averages the content over its surroundings, farther in one direction than in the other."""
    width = scene.unit * between(*_WIDTHS, strength)
    stretch = float(np.exp(rng.uniform(0, np.log(_MOST_STRETCHED)))) ** 0.5
    sizes = [max(1, round(width * stretch)), max(2, round(width / stretch))]
    rng.shuffle(sizes)
    rows, columns = place.padded(2 * max(sizes), scene.shape)
    smeared = scene.pixels[rows, columns].astype(np.float32)
    for _ in range(2):  # two boxes make a tent, and their cost does not grow with their size
        smeared = ndimage.uniform_filter(smeared, (*sizes, 1), mode="nearest")
    inside: FloatArray = smeared[place.inner(rows, columns)]
    return inside


BLUR = region_kind(colors)
"""The kind `"blur"` of `KINDS`."""
