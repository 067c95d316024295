"""Shapes of anomalies: regions and lines with soft edges."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from autopatch.data.synthetic.noise import FloatArray, smooth_noise
from autopatch.data.synthetic.scene import BoolArray, Scene

SOFTNESS = (0.3, 1.2)
"""Deviation of the softened edge, in pixels at 224."""

WIDTHS = (0.9, 5.0)
"""Width of a line, in pixels at 224."""

_REGULAR = 0.2  # share of ellipses and rectangles
_MOST_STRETCHED = 3.0
_LEAST_SLENDER = 6.0  # length of a line in widths
_LONGEST = 1.2  # in square roots of the area of the foreground
_STEP = 3.0  # length of the straight parts of a line, in pixels at 224
_FAINTEST = 1 / 256


def region(scene: Scene, area: float, rng: np.random.Generator) -> FloatArray:
    """A region, mostly with an irregular outline; sometimes an ellipse or a rectangle.

    Args:
        scene: The image; the edge is softened by `SOFTNESS` in its scale.
        area: Number of pixels with a weight of one half or more.
        rng: The random numbers.

    Returns:
        Weights, float32 `[h, w]`, 0 to 1.
    """
    softness = min(scene.unit * rng.uniform(*SOFTNESS), 0.15 * area**0.5)
    stretch = float(np.exp(rng.uniform(0, np.log(_MOST_STRETCHED))))
    radius = (area * stretch / np.pi) ** 0.5
    extent = int(np.ceil(3.6 * radius + 8 * softness)) + 2
    shape = min(extent, scene.shape[0]), min(extent, scene.shape[1])
    angle = rng.uniform(0, np.pi)
    rows, columns = np.indices(shape, np.float32)
    rows -= (shape[0] - 1) / 2
    columns -= (shape[1] - 1) / 2
    along = (rows * np.sin(angle) + columns * np.cos(angle)) / radius
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / radius * stretch
    if rng.random() >= _REGULAR:
        bumps = smooth_noise(rng, shape, rng.uniform(0.35, 1.0) * area**0.5)
        depth = rng.uniform(0.3, 0.8) * bumps - along**2 - across**2
    elif rng.random() < 0.5:
        depth = -(along**2) - across**2
    else:
        depth = -np.maximum(np.abs(along), np.abs(across))
    inside = depth >= _largest(depth, area)
    return levelled(ndimage.gaussian_filter(inside.astype(np.float32), softness), area)


def line(scene: Scene, area: float, rng: np.random.Generator) -> FloatArray:
    """A line: straight, bent, or a random walk, with tapered ends.

    Args:
        scene: The image; width and softness of the line are in its scale.
        area: Number of pixels with a weight of one half or more.
        rng: The random numbers.

    Returns:
        Weights, float32 `[h, w]`, 0 to 1.
    """
    unit = scene.unit
    longest = _LONGEST * scene.foreground.area**0.5
    thinnest = max(WIDTHS[0] * unit, area / longest)
    thickest = max(thinnest, min(WIDTHS[1] * unit, (area / _LEAST_SLENDER) ** 0.5))
    width = float(np.exp(rng.uniform(np.log(thinnest), np.log(thickest))))
    points = _path(area / width, unit, rng)
    softness = min(unit * rng.uniform(*SOFTNESS), 0.4 * width)
    margin = width + 4 * softness + 1
    points = points - points.min(axis=0) + margin
    height, extent = (int(np.ceil(length + margin)) for length in points.max(axis=0))
    finer = max(1, round(6 / width))
    drawn = Image.new("L", (extent * finer, height * finer))
    draw = ImageDraw.Draw(drawn)
    ends = np.linspace(0, 1, len(points))
    swell = 1 + 0.25 * np.interp(ends, np.linspace(0, 1, 6), rng.standard_normal(6))
    taper = np.minimum(1, 8 * np.minimum(ends, 1 - ends)) ** 0.5
    radii = np.maximum(0.5 * width * finer * swell.clip(0.5, 1.5) * taper, 0.5)
    spots = points * finer
    for (y0, x0), (y1, x1), radius in zip(spots[:-1], spots[1:], radii[:-1], strict=True):
        draw.line((x0, y0, x1, y1), fill=255, width=max(1, round(2 * radius)))
        draw.ellipse((x1 - radius, y1 - radius, x1 + radius, y1 + radius), fill=255)
    covered = np.asarray(drawn.reduce(finer), np.float32) / np.float32(255)
    return levelled(ndimage.gaussian_filter(covered, softness), area)


def levelled(soft: FloatArray, area: float) -> FloatArray:
    """Raises or lowers weights so that as many as given are one half or more.

    Weights that change no 8-bit value become 0.

    Args:
        soft: Weights, float32 `[h, w]`.
        area: The number, at least one pixel is meant.

    Returns:
        float32 `[h, w]`, 0 to 1; the largest is 1.
    """
    highest = float(soft.max())
    level = min(max(_largest(soft, area), 0.05 * highest), 0.95 * highest)
    weight = np.interp(soft, (0, level, highest), (0, 0.5, 1)).astype(np.float32)
    weight[weight < _FAINTEST] = 0
    return weight


def around(mask: BoolArray, distance: int) -> BoolArray:
    """The pixels outside a mask that are at most so many pixels away from it."""
    near: BoolArray = ndimage.maximum_filter(mask, 2 * distance + 1) & ~mask
    return near


def _path(length: float, unit: float, rng: np.random.Generator) -> FloatArray:
    """Points of a line, `[n, 2]` rows and columns."""
    steps = max(6, round(length / (_STEP * unit)))
    form = rng.random()
    turns = np.zeros(steps)
    if form > 0.25:
        turns += rng.choice([-1, 1]) * rng.uniform(0.2, 2.0) / steps
    if form > 0.6:
        wander = rng.standard_normal(steps) * rng.uniform(0.05, 0.3)
        turns += wander
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turns)
    moves = np.stack([np.sin(heading), np.cos(heading)], axis=1) * (length / steps)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)]).astype(np.float32)


def _largest(values: FloatArray, count: float) -> float:
    """The value that so many values reach or exceed."""
    kept = min(max(1, round(count)), values.size)
    return float(np.partition(values, values.size - kept, axis=None)[values.size - kept])
