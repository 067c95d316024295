"""The part of an image that shows an object, if it lies on a plain ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]

_SIDE = 128  # longer side of the reduced image, in pixels
_BORDER = 0.02  # width of the border, as a share of the side
_UNIFORM = 0.85  # share of the border that must have the color of the ground
_LEAST_TOLERANCE = 12.0
_MOST_TOLERANCE = 30.0
_LEAST_AREA = 0.01
_MOST_AREA = 0.95
_CONTRAST = 2.5  # least difference between object and ground, in tolerances
_SHADOW = 0.45  # differences below this share of the object's are shadows
_FITS = 4  # of the plane, each without the outliers of the one before
_SPECK = 0.1  # parts smaller than this share of the largest are no object


@dataclass(frozen=True)
class Foreground:
    """The part of an image that anomalies may lie on.

    Attributes:
        cells: The foreground in a reduced image, bool `[h, w]`.
        shape: Height and width of the image.
    """

    cells: BoolArray
    shape: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image) -> Foreground:
        """Estimates the foreground of an image.

        If most of the border has one color, it is taken for a plain ground, and the
        foreground is what differs from it, with its holes. It is the whole image if the border has
        several colors, or if what is found is no object: less than 1 % of the image, nearly all of
        it, or hardly different from the ground.

        Args:
            image: The image, RGB or gray.
        """
        factor = min(1.0, _SIDE / max(image.size))
        width, height = (max(1, round(length * factor)) for length in image.size)
        small = np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)
        small = small.reshape(*small.shape[:2], -1)
        found = _object(small)
        cells = np.ones(small.shape[:2], bool) if found is None else found
        return cls(cells, (image.height, image.width))

    @property
    def is_whole(self) -> bool:
        """Whether the foreground is the whole image."""
        return bool(self.cells.all())

    @property
    def area(self) -> float:
        """Area in pixels of the image."""
        return float(self.cells.mean()) * self.shape[0] * self.shape[1]

    def within(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """How much of each pixel of a box is foreground, float32 `[h, w]`, 0 to 1."""
        down, across = (n / m for n, m in zip(self.cells.shape, self.shape, strict=True))
        box = (
            columns.start * across,
            rows.start * down,
            columns.stop * across,
            rows.stop * down,
        )
        size = (columns.stop - columns.start, rows.stop - rows.start)
        cells = Image.fromarray(self.cells.astype(np.float32))
        return np.asarray(cells.resize(size, Image.Resampling.BILINEAR, box))

    def point(self, rng: np.random.Generator) -> tuple[float, float]:
        """A random point on the foreground: row and column in pixels of the image."""
        chosen = np.flatnonzero(self.cells)[rng.integers(np.count_nonzero(self.cells))]
        cell = np.array(np.unravel_index(chosen, self.cells.shape)) + rng.uniform(size=2)
        row, column = cell / self.cells.shape * self.shape
        return float(row), float(column)


def _object(pixels: npt.NDArray[np.float32]) -> BoolArray | None:
    """The object on a plain ground, bool `[h, w]`; None if the ground is not plain."""
    height, width = pixels.shape[:2]
    border = np.zeros((height, width), bool)
    margin = max(1, round(_BORDER * min(height, width)))
    border[:margin] = border[-margin:] = True
    border[:, :margin] = border[:, -margin:] = True
    difference = np.abs(pixels - _ground(pixels, border)).max(axis=2)
    tolerance = max(_LEAST_TOLERANCE, 4 * float(np.median(difference[border])))
    if tolerance > _MOST_TOLERANCE or (difference[border] > tolerance).mean() > 1 - _UNIFORM:
        return None
    if not (difference > tolerance).any():
        return None
    highest = float(np.quantile(difference[difference > tolerance], 0.9, method="higher"))
    if highest < _CONTRAST * tolerance:
        return None
    differs = difference > max(tolerance, _SHADOW * highest)
    differs = ndimage.binary_closing(np.pad(differs, 2), iterations=2)[2:-2, 2:-2]
    differs = ndimage.binary_fill_holes(ndimage.binary_opening(differs))
    labels, count = ndimage.label(differs)
    if not count:
        return None
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    found: BoolArray = (areas >= _SPECK * areas.max())[labels] & differs
    return found if _LEAST_AREA <= found.mean() <= _MOST_AREA else None


def _ground(pixels: npt.NDArray[np.float32], border: BoolArray) -> npt.NDArray[np.float32]:
    """The color of the ground in each pixel: a plane through most of the border, since the light
    may fall off to one side."""
    height, width = border.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    plane = np.stack([np.ones_like(rows), rows / height, columns / width], axis=2)
    terms, values = plane[border], pixels[border]
    kept = np.ones(len(terms), bool)
    for _ in range(_FITS):
        fitted, *_ = np.linalg.lstsq(terms[kept], values[kept], rcond=None)
        difference = np.abs(values - terms @ fitted).max(axis=1)
        kept = difference <= max(3 * float(np.median(difference)), 1.0)
    ground: npt.NDArray[np.float32] = plane @ fitted.astype(np.float32)
    return ground
