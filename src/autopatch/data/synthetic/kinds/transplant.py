"""Transplants: real defects, moved into good images."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autopatch.data.synthetic.kinds.kind import Kind
from autopatch.data.synthetic.noise import FloatArray
from autopatch.data.synthetic.scene import BoolArray, Patch, Scene, sampled, turned
from autopatch.data.synthetic.shapes import SOFTNESS, around, levelled

_SCALES = (0.7, 1.4)
_LARGEST = 0.25  # share of the foreground
_SMALLEST = 9.0  # pixels
_FACTORS = (0.7, 1.5)
_RIM = 4.0  # width of the surroundings that are compared, in pixels at 224


def draw(scene: Scene, area: float, strength: float, rng: np.random.Generator) -> Patch:
    """Moves the largest region of the shot's mask, turned, scaled, and toned to its surroundings.

    The area is that of the region, in relation to its image, times 0.5 to 2; neither `area` nor
    `strength` is used.
    """
    shot = scene.shot
    assert shot is not None
    defect = _largest_region(shot.mask)
    own = float(defect.sum())
    ratio = np.sqrt(scene.pixels[..., 0].size / shot.mask.size)
    scale = ratio * float(np.exp(rng.uniform(*np.log(_SCALES))))
    scale = max(scale, (_SMALLEST / own) ** 0.5)
    scale = min(scale, (_LARGEST * scene.foreground.area / own) ** 0.5)
    angle = rng.uniform(0, 2 * np.pi)
    softness = min(scene.unit * rng.uniform(*SOFTNESS), 0.15 * scale * own**0.5)
    rim = max(2, round(_RIM * scene.unit))
    shape, center = _box(defect, angle, scale, rim + int(np.ceil(4 * softness)) + 1)
    points = turned(shape, center, angle, scale)
    moved = sampled(defect.astype(np.uint8)[..., None] * np.uint8(255), *points)[..., 0] / 255
    outside = (points[0] < 0) | (points[1] < 0)
    outside |= (points[0] > defect.shape[0] - 1) | (points[1] > defect.shape[1] - 1)
    moved[outside] = 0
    weight = levelled(ndimage.gaussian_filter(moved, softness), float((moved >= 0.5).sum()))
    place = scene.put(weight, rng)
    colors = sampled(shot.pixels, *points)
    if place.shape != shape:  # cut to the image
        top, left = ((n - m) // 2 for n, m in zip(shape, place.shape, strict=True))
        rows, columns = slice(top, top + place.shape[0]), slice(left, left + place.shape[1])
        colors, moved = colors[rows, columns], moved[rows, columns]
    return Patch(place, _toned(colors, scene.content(place), around(moved > 0, rim)))


def _largest_region(mask: BoolArray) -> BoolArray:
    labels, _ = ndimage.label(mask, np.ones((3, 3), bool))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    largest: BoolArray = labels == areas.argmax()
    return largest


def _box(
    defect: BoolArray, angle: float, scale: float, margin: int
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Height and width of the box that holds the turned defect, and the defect's center."""
    rows, columns = (np.flatnonzero(defect.any(axis=axis)) for axis in (1, 0))
    height, width = (float(found[-1] - found[0] + 1) for found in (rows, columns))
    cosine, sine = abs(np.cos(angle)), abs(np.sin(angle))
    shape = scale * (height * cosine + width * sine), scale * (height * sine + width * cosine)
    center = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    return (int(shape[0]) + 2 * margin + 1, int(shape[1]) + 2 * margin + 1), center


def _toned(colors: FloatArray, content: FloatArray, rim: BoolArray) -> FloatArray:
    """Gives colors the mean of their new surroundings, mostly by a factor."""
    if not rim.any():
        return colors
    mean, target = colors[rim].mean(axis=0), content[rim].mean(axis=0)
    factor = np.clip((target + 1) / (mean + 1), *_FACTORS)
    toned: FloatArray = target + factor * (colors - mean)
    return toned


TRANSPLANT = Kind(draw, needs_shot=True)
"""The kind `"transplant"` of `KINDS`."""
