"""Smooth noise, and textures drawn from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]

_OCTAVES = 3


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = _OCTAVES
) -> FloatArray:
    """Noise of mean 0 and deviation 1 with bumps of a given size and finer ones on them.

    Args:
        rng: The random numbers.
        shape: Height and width.
        cell: Distance of the bumps in pixels. Each octave halves it and the height of the bumps.
        octaves: Number of octaves.

    Returns:
        float32 `[height, width]`.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        pitch = max(cell / 2**octave, 1.0)
        rows, columns = (int(length / pitch) + 3 for length in shape)
        coarse = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
        # The bumps have their distance whatever the shape is, so the grid ends inside a bump.
        box = (1.0, 1.0, 1.0 + width / pitch, 1.0 + height / pitch)
        fine = coarse.resize((width, height), Image.Resampling.BICUBIC, box)
        total += np.asarray(fine) / np.float32(2**octave)
    scaled: FloatArray = (total - total.mean()) / np.float32(max(float(total.std()), 1e-6))
    return scaled


def drawn_texture(
    rng: np.random.Generator, shape: tuple[int, int], unit: float, channels: int
) -> FloatArray:
    """A texture between two random colors: clouds, stripes, specks, cells or a plain color.

    Args:
        rng: The random numbers.
        shape: Height and width.
        unit: The length, in pixels, that is a pixel in an image of 224 x 224.
        channels: C, 1 or 3.

    Returns:
        float32 `[height, width, C]`, 0 to 255.
    """
    kind = rng.integers(5)
    pitch = unit * float(np.exp(rng.uniform(np.log(2.0), np.log(12.0))))
    if kind == 0:
        share = 0.5 + 0.35 * smooth_noise(rng, shape, 2 * pitch, octaves=5)
    elif kind == 1:
        rows, columns = np.indices(shape, np.float32)
        angle = rng.uniform(0, np.pi)
        along = rows * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle))
        along += np.float32(0.3 * pitch) * smooth_noise(rng, shape, 6 * pitch)
        share = 0.5 + 0.5 * np.sin(along * np.float32(2 * np.pi / pitch))
    elif kind == 2:
        share = 0.5 + 0.3 * smooth_noise(rng, shape, max(unit, 1.0), octaves=1)
    elif kind == 3:
        share = 1.5 * np.abs(smooth_noise(rng, shape, 1.5 * pitch, octaves=1)) ** 0.5 - 0.3
    else:
        share = np.full(shape, rng.uniform(), np.float32)
        share += 0.05 * smooth_noise(rng, shape, 4 * pitch)
    low, high = rng.uniform(0, 255, 2)
    colors = np.array([[low], [high]]) + rng.normal(0, 30, (2, channels)) * (channels > 1)
    first, second = colors.clip(0, 255).astype(np.float32)
    mixed: FloatArray = first + share.clip(0, 1)[..., None].astype(np.float32) * (second - first)
    return mixed
