"""What a kind of anomaly draws on, and what it draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from autopatch.data.synthetic.foreground import Foreground
from autopatch.data.synthetic.noise import FloatArray

BoolArray = npt.NDArray[np.bool_]

REFERENCE_SIDE = 224
"""Lengths are stated in pixels of a square image of this side, and scale with the image."""

_PLACES = 24  # so many places are tried for a shape
_ENOUGH = 0.9  # a place is taken at once if so much of the shape is on the foreground
_LEAST = 0.5
_CUT = 0.5  # share of the shapes that are cut to the foreground anyway
_WINDOW = 5  # side of the window of local statistics, in pixels of the reduced image


@dataclass(frozen=True)
class Place:
    """Where in an image an anomaly is drawn, and how strongly it covers each pixel.

    Attributes:
        rows: Rows of the box that it lies in.
        columns: Columns of this box.
        weight: Share of the anomaly in each pixel of the box, float32 `[h, w]`, 0 to 1.
    """

    rows: slice
    columns: slice
    weight: FloatArray

    @property
    def mask(self) -> BoolArray:
        """The pixels of the box that are anomalous: those with a weight of one half or more."""
        return self.weight >= 0.5

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the box."""
        height, width = self.weight.shape
        return height, width

    @property
    def center(self) -> tuple[float, float]:
        """Row and column of the center of the box."""
        return (self.rows.start + self.rows.stop) / 2, (self.columns.start + self.columns.stop) / 2

    def padded(self, margin: int, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the box with a margin, cut at the borders of the image."""
        rows, columns = (
            slice(max(0, part.start - margin), min(length, part.stop + margin))
            for part, length in zip((self.rows, self.columns), shape, strict=True)
        )
        return rows, columns

    def inner(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns of the box within a larger box."""
        return (
            slice(self.rows.start - rows.start, self.rows.stop - rows.start),
            slice(self.columns.start - columns.start, self.columns.stop - columns.start),
        )


@dataclass(frozen=True)
class Patch:
    """What a kind draws.

    Attributes:
        place: Where.
        colors: The colors of the anomaly in the box, float32 `[h, w, C]`; values outside 0 to 255
            are clipped.
    """

    place: Place
    colors: FloatArray


@dataclass(frozen=True)
class Shot:
    """A real anomalous image, for transplants.

    Attributes:
        pixels: uint8 `[H, W, C]` with the channels of the scene.
        mask: bool `[H, W]`.
    """

    pixels: npt.NDArray[np.uint8]
    mask: BoolArray


@dataclass(frozen=True)
class Scene:
    """A good image on which an anomaly is drawn.

    Attributes:
        pixels: uint8 `[H, W, C]`; C is 1 for a gray image, otherwise 3.
        foreground: The part of the image that anomalies lie on.
        other: Gives a random image of the set with the channels of this one.
        shot: The real anomalous image of a transplant, None for other kinds.
    """

    pixels: npt.NDArray[np.uint8]
    foreground: Foreground
    other: Callable[[np.random.Generator], npt.NDArray[np.uint8]]
    shot: Shot | None = None

    @classmethod
    def of(
        cls,
        pixels: npt.NDArray[np.uint8],
        other: Callable[[np.random.Generator], npt.NDArray[np.uint8]],
        shot: Shot | None = None,
    ) -> Scene:
        """The scene of an image `[H, W, C]`."""
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
        return cls(pixels, Foreground.of(image), other, shot)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.pixels.shape[:2]
        return height, width

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 3."""
        return int(self.pixels.shape[2])

    @property
    def unit(self) -> float:
        """The length, in pixels, that is a pixel in an image of 224 x 224."""
        return _unit(self.shape)

    def content(self, place: Place) -> FloatArray:
        """The pixels in the box of a place, float32 `[h, w, C]`."""
        return self.pixels[place.rows, place.columns].astype(np.float32)

    def put(
        self, weight: FloatArray, rng: np.random.Generator, *, inside_only: bool = False
    ) -> Place:
        """Finds a place for a shape on the foreground.

        Of several random places, the one is taken where most of the shape is on the foreground. If
        that is less than half of it, the shape is cut to the foreground, and so is half of the
        others, since defects may end at the edge of an object or lie across it.

        Args:
            weight: The shape, float32 `[h, w]`, 0 to 1. If it is larger than the image, its center
                part is used.
            rng: The random numbers.
            inside_only: Whether the shape is cut to the foreground in any case.
        """
        weight = _center_part(weight, self.shape)
        mass, best, most = max(float(weight.sum()), 1e-6), None, -1.0
        for _ in range(_PLACES):
            rows, columns = (
                slice(start, start + extent)
                for start, extent in zip(self._corner(weight.shape, rng), weight.shape, strict=True)
            )
            if self.foreground.is_whole:
                return Place(rows, columns, weight)
            inside = self.foreground.within(rows, columns)
            share = float((weight * inside).sum()) / mass
            if share > most:
                best, most = (rows, columns, inside), share
            if share >= _ENOUGH:
                break
        assert best is not None
        rows, columns, inside = best
        cut = Place(rows, columns, weight * inside)
        if (inside_only or most < _LEAST or rng.random() < _CUT) and cut.mask.any():
            return cut
        return Place(rows, columns, weight)

    def _corner(self, extent: tuple[int, ...], rng: np.random.Generator) -> list[int]:
        """Upper left corner of a box around a random point of the foreground."""
        return [
            int(np.clip(round(at - n / 2), 0, length - n))
            for at, n, length in zip(self.foreground.point(rng), extent, self.shape, strict=True)
        ]


def local_statistics(pixels: npt.NDArray[np.uint8], unit: float) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of the gray values around each pixel, in 5 x 5 pixels.

    Args:
        pixels: uint8 `[H, W, C]`.
        unit: If above 1, the image is first reduced by this factor.

    Returns:
        Both float32, in the size of the reduced image.
    """
    grey = pixels.mean(axis=2, dtype=np.float32)
    height, width = grey.shape
    if unit > 1:
        size = max(1, round(width / unit)), max(1, round(height / unit))
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
    mean = ndimage.uniform_filter(grey, _WINDOW)
    square = ndimage.uniform_filter(grey * grey, _WINDOW)
    return mean, np.sqrt(np.maximum(square - mean * mean, 0))


def sampled(
    pixels: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.floating],
    columns: npt.NDArray[np.floating],
) -> FloatArray:
    """Colors at points between pixels, linear; the image is mirrored beyond its borders.

    Args:
        pixels: uint8 `[H, W, C]`.
        rows: Rows of the points, `[h, w]`.
        columns: Their columns, `[h, w]`.

    Returns:
        float32 `[h, w, C]`.
    """
    height, width = pixels.shape[:2]
    row, down = _mirrored(rows, height)
    column, across = _mirrored(columns, width)
    flat = pixels.reshape(height * width, -1)
    corner = row * width + column
    right, below = np.minimum(column + 1, width - 1) - column, np.minimum(row + 1, height - 1) - row
    upper = _mixed(flat[corner], flat[corner + right], across)
    corner += below * width
    lower = _mixed(flat[corner], flat[corner + right], across)
    return _mixed(upper, lower, down)


def turned(
    shape: tuple[int, int], center: tuple[float, float], angle: float, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Rows and columns in another image of the pixels of a box that shows it turned and scaled.

    Args:
        shape: Height and width of the box.
        center: Row and column in the other image of the center of the box.
        angle: By which the other image is turned clockwise, in radians.
        scale: By which it is enlarged.
    """
    rows, columns = np.indices(shape, np.float32)
    rows -= (shape[0] - 1) / 2
    columns -= (shape[1] - 1) / 2
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    return (
        (rows * cosine - columns * sine + center[0]).astype(np.float32),
        (rows * sine + columns * cosine + center[1]).astype(np.float32),
    )


def _unit(shape: tuple[int, ...]) -> float:
    return float(np.sqrt(shape[0] * shape[1])) / REFERENCE_SIDE


def _center_part(weight: FloatArray, shape: tuple[int, int]) -> FloatArray:
    rows, columns = (
        slice(max(0, (extent - length) // 2), max(0, (extent - length) // 2) + length)
        for extent, length in zip(weight.shape, shape, strict=True)
    )
    return weight[rows, columns]


def _mirrored(at: npt.NDArray[np.floating], length: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Whole and fractional part of points on a line that is mirrored at both ends."""
    last = max(length - 1, 1)
    folded = np.abs((at + last) % (2 * last) - last)
    whole = np.minimum(folded.astype(np.intp), length - 1)
    return whole, (folded - whole).astype(np.float32)[..., None]


def _mixed(
    first: npt.NDArray[np.uint8] | FloatArray,
    second: npt.NDArray[np.uint8] | FloatArray,
    share: FloatArray,
) -> FloatArray:
    start = first.astype(np.float32)
    mixed: FloatArray = start + share * (second - start)
    return mixed
