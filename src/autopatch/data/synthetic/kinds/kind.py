"""Kinds of synthetic anomalies, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from autopatch.data.synthetic.noise import FloatArray
from autopatch.data.synthetic.scene import Patch, Place, Scene
from autopatch.data.synthetic.shapes import region
from autopatch.registry import Registry

AREAS = (0.001, 0.05)
"""Smallest and largest area of a region, as a share of the image."""

_TINT = 0.2

Draw: TypeAlias = Callable[[Scene, float, float, np.random.Generator], Patch]
"""Draws an anomaly: gets the scene, the area in pixels, the strength from 0 (faint) to 1 (obvious),
and the random numbers."""

Colors: TypeAlias = Callable[[Scene, Place, float, np.random.Generator], FloatArray]
"""Colors of a region: gets the scene, the place, the strength from 0 (faint) to 1 (obvious), and
the random numbers; gives float32 `[h, w, C]` for the box of the place."""


@dataclass(frozen=True)
class Kind:
    """A kind of anomaly.

    Attributes:
        draw: Draws one.
        areas: Smallest and largest area, as a share of the image.
        needs_shot: Whether `Scene.shot` must be given.
    """

    draw: Draw
    areas: tuple[float, float] = AREAS
    needs_shot: bool = False


def region_kind(colors: Colors) -> Kind:
    """A kind that gives an irregular region other colors."""

    def draw(scene: Scene, area: float, strength: float, rng: np.random.Generator) -> Patch:
        place = scene.put(region(scene, area, rng), rng)
        return Patch(place, colors(scene, place, strength, rng))

    return Kind(draw)


def shift(rng: np.random.Generator, content: FloatArray, place: Place, amount: float) -> FloatArray:
    """A change of brightness, with a slight tint in color images.

    It is positive or negative at random, unless the content is so bright or dark that most of the
    change would be clipped.

    Args:
        rng: The random numbers.
        content: The pixels of the place, `[h, w, C]`.
        place: The place.
        amount: Size of the change in gray levels.

    Returns:
        float32 `[C]`.
    """
    sign = float(rng.choice([-1, 1]))
    level = float(content[place.mask].mean()) if place.mask.any() else 128.0
    if not 0 <= level + 0.75 * sign * amount <= 255:
        sign = -sign
    channels = content.shape[2]
    tint = np.ones(channels)
    if channels > 1:
        tint += _TINT * rng.standard_normal(channels)
    return (sign * amount * tint).astype(np.float32)


def between(low: float, high: float, strength: float) -> float:
    """A value from `low` (strength 0) to `high` (strength 1), in equal ratios."""
    return float(low * (high / low) ** strength)


DEFAULT_KINDS = ("scratch", "texture", "cutpaste", "blur", "tone", "warp")
"""The kinds that need no real anomaly."""

TRANSPLANT = "transplant"
"""The kind that moves real defects into good images."""

_HERE = "autopatch.data.synthetic.kinds"

KINDS: Registry[Kind] = Registry(
    "an entry of `kinds`",
    {name: f"{_HERE}.{name}:{name.upper()}" for name in (*DEFAULT_KINDS, TRANSPLANT)},
)
"""The kinds of synthetic anomalies, by name."""
