"""Draws one anomaly on a scene, again and again until it is visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autopatch.data.synthetic.kinds import Kind
from autopatch.data.synthetic.scene import Patch, Place, Scene, local_statistics

LEAST_CHANGE = 6.0
"""Least visible change, in gray levels."""

LEAST_CONTRAST = 0.65
"""Least visible change, as a share of the local deviation of the good image."""

RIM = 3.6
"""Width of the softened rim beyond the mask, in pixels at 224: three times the largest deviation of
`SOFTNESS`. One pixel is added to it. Nothing changes outside."""

_TRIES = 10
_MOST_OF_OBJECT = 0.2
_LEAST_PIXELS = 9.0


@dataclass(frozen=True)
class Painted:
    """An image with an anomaly.

    Attributes:
        pixels: uint8 `[H, W, C]`.
        mask: The anomalous pixels, bool `[H, W]`.
        visibility: The mean change under the mask in multiples of the least visible one.
    """

    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    visibility: float


def paint(scene: Scene, kind: Kind, rng: np.random.Generator) -> Painted:
    """Draws an anomaly of a kind on a scene.

    The area is log-uniform in the range of the kind, but at least 9 pixels, and at most a fifth of
    an object on a plain ground. The strength is uniform. If the change is not visible, another
    anomaly of the same area is drawn, each a little stronger; of ten, the most visible one is kept.

    The change is that of local mean and local deviation together, in the image reduced to the size
    of 224 x 224, so that exchanging one piece of a texture for a similar one counts as none. It is
    visible from `LEAST_CHANGE` gray levels on plain content, and from `LEAST_CONTRAST` times the
    local deviation of the good image on textured content.

    Raises:
        ValueError: The kind drew only empty masks.
    """
    area, strength = _area(scene, kind, rng), rng.uniform()
    best, most = None, -1.0
    for attempt in range(_TRIES):
        stronger = strength + (1 - strength) * attempt / (_TRIES - 1)
        patch = kind.draw(scene, area, stronger, rng)
        if not patch.place.mask.any():
            continue
        mixed = _blended(scene, patch)
        change = _visibility(scene, patch.place, mixed)
        if change > most:
            best, most = (patch.place, mixed), change
        if change >= 1:
            break
    if best is None:
        raise ValueError(f"the kind drew nothing in {_TRIES} tries, expected a mask")
    place, mixed = best
    pixels = scene.pixels.copy()
    pixels[place.rows, place.columns] = mixed
    mask = np.zeros(scene.shape, bool)
    mask[place.rows, place.columns] = place.mask
    return Painted(pixels, mask, most)


def _area(scene: Scene, kind: Kind, rng: np.random.Generator) -> float:
    """The area to draw, in pixels."""
    whole = scene.shape[0] * scene.shape[1]
    low, high = (share * whole for share in kind.areas)
    if not scene.foreground.is_whole:
        high = min(high, _MOST_OF_OBJECT * scene.foreground.area)
    low = max(low, _LEAST_PIXELS)
    return float(np.exp(rng.uniform(np.log(low), np.log(max(low, high)))))


def _blended(scene: Scene, patch: Patch) -> npt.NDArray[np.uint8]:
    """The pixels of the box with the anomaly."""
    content, place = scene.content(patch.place), patch.place
    rim = int(np.ceil(RIM * scene.unit)) + 1
    weight = place.weight * ndimage.maximum_filter(place.mask, 2 * rim + 1)
    change = weight[..., None] * (patch.colors - content)
    mixed: npt.NDArray[np.uint8] = np.rint(content + change).clip(0, 255).astype(np.uint8)
    return mixed


def _visibility(scene: Scene, place: Place, mixed: npt.NDArray[np.uint8]) -> float:
    """Mean change under the mask in multiples of the least visible one."""
    rows, columns = place.padded(int(3 * max(scene.unit, 1)), scene.shape)
    before = scene.pixels[rows, columns]
    after, mask = before.copy(), np.zeros((*before.shape[:2], 1), np.uint8)
    after[place.inner(rows, columns)] = mixed
    mask[place.inner(rows, columns)] = 255 * place.mask[..., None]
    inside, _ = local_statistics(mask, scene.unit)
    if not inside.any():  # the mask is thinner than a pixel of the reduced image
        return 0.0
    old_mean, old_deviation = local_statistics(before, scene.unit)
    mean, deviation = local_statistics(after, scene.unit)
    change = np.abs(mean - old_mean) + np.abs(deviation - old_deviation)
    contrast = float(np.average(old_deviation, weights=inside))
    return float(np.average(change, weights=inside)) / max(LEAST_CHANGE, LEAST_CONTRAST * contrast)
