"""A synthetic data set: a woven fabric with scratches, stains and holes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from autopatch.data.samples import GOOD
from autopatch.errors import InputError
from autopatch.files import StrPath, new_folder

_Array = npt.NDArray[np.float64]

_THREADS = 18
"""Warp threads across an image."""

_WARP_COLOR = np.array([0.60, 0.62, 0.66])
_WEFT_COLOR = np.array([0.42, 0.47, 0.56])
_GAP_COLOR = np.array([0.10, 0.10, 0.12])
_STAIN_COLOR = np.array([0.62, 0.50, 0.36])


def draw_textures(
    root: StrPath,
    *,
    seed: int = 0,
    image_size: int = 128,
    train: int = 40,
    test_good: int = 12,
    per_type: int = 8,
) -> Path:
    """Draws a data set in the MVTec-AD layout, with the types `hole`, `scratch` and `stain`.

    Each image shows a different piece of the same fabric: direction, thread thickness, color and
    light vary. The mask marks exactly the pixels that the defect covers. The same arguments draw
    the same images.

    Args:
        root: The folder to make; it must not exist. It appears only when all images are drawn.
        seed: Seed of the random numbers.
        image_size: Side of the images, in pixels; everything else scales with it.
        train: Number of images in `train/good`.
        test_good: Number of images in `test/good`.
        per_type: Number of images of each anomaly type.

    Returns:
        `root`.

    Raises:
        InputError: `root` exists or cannot be written, or a number is out of range.
    """
    root = Path(root)
    if root.exists():
        raise InputError(f"{root}: exists, expected a new folder to draw the images in")
    for name, value, low in (
        ("seed", seed, 0),
        ("image_size", image_size, 32),
        ("train", train, 1),
        ("test_good", test_good, 0),
        ("per_type", per_type, 1),
    ):
        if value < low:
            raise InputError(f"`{name}` is {value}, expected at least {low}")
    with new_folder(root) as folder:
        _draw_all(folder, seed, image_size, train, test_good, per_type)
    return root


def _draw_all(
    root: Path, seed: int, image_size: int, train: int, test_good: int, per_type: int
) -> None:
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test_good)):
        for index in range(count):
            _save(_fabric(rng, image_size), root / part / GOOD / f"{index:03d}.png")
    for kind, draw in _DEFECTS.items():
        for index in range(per_type):
            surface = _fabric(rng, image_size)
            color, opacity = draw(rng, surface)
            mixed = surface + opacity[..., None] * (color - surface)
            _save(mixed, root / "test" / kind / f"{index:03d}.png")
            mask = (opacity > 0).astype(np.float64)
            _save(mask, root / "ground_truth" / kind / f"{index:03d}_mask.png")


def _save(values: _Array, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(values.clip(0, 1) * 255).astype(np.uint8)).save(file)


def _field(rng: np.random.Generator, size: int, cells: int) -> _Array:
    """Smooth noise `[size, size]` of about unit deviation, `cells` bumps across."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    resized = coarse.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized).astype(np.float64)


def _grid(size: int) -> tuple[_Array, _Array]:
    """Pixel centers (x, y), each `[size, size]`, in units of the image's side."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return x, y


def _fabric(rng: np.random.Generator, size: int) -> _Array:
    """Draws a piece of plain weave, `[size, size, 3]` in 0..1."""
    x, y = _grid(size)
    angle = rng.normal(0, 0.03)
    wobble = 0.12 * _field(rng, size, 5), 0.12 * _field(rng, size, 5)
    u = _THREADS * (x * np.cos(angle) + y * np.sin(angle)) + wobble[0] + rng.uniform(2, 4)
    v = _THREADS * (y * np.cos(angle) - x * np.sin(angle)) + wobble[1] + rng.uniform(2, 4)
    warp, weft = np.floor(u).astype(int), np.floor(v).astype(int)
    across_warp = np.sin(np.pi * (u - warp))
    across_weft = np.sin(np.pi * (v - weft))

    # Each thread has its own tone. The upper thread is bright, the lower one dark.
    tones = 1 + 0.05 * rng.standard_normal((2, _THREADS + 16))
    above = (warp + weft) % 2 == 0
    warp_light = tones[0, warp % tones.shape[1]] * across_warp**0.5
    weft_light = tones[1, weft % tones.shape[1]] * across_weft**0.5
    warp_light *= 0.75 + 0.25 * across_weft
    weft_light *= 0.75 + 0.25 * across_warp
    surface = np.where(
        above[..., None],
        warp_light[..., None] * _WARP_COLOR,
        weft_light[..., None] * _WEFT_COLOR,
    )

    direction = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.normal(0, 0.04)
    light = light + 0.10 * ((x - 0.5) * np.cos(direction) + (y - 0.5) * np.sin(direction))
    light = light + 0.03 * _field(rng, size, 4)
    grain = 0.025 * rng.standard_normal((size, size, 1))
    tint = 1 + 0.015 * rng.standard_normal(3)
    result: _Array = (surface * light[..., None] * tint + grain).clip(0, 1)
    return result


def _blob(rng: np.random.Generator, size: int, radius: float, roughness: float) -> _Array:
    """Depth `[size, size]` inside an irregular ellipse: 1 at its center, below 0 outside."""
    x, y = _grid(size)
    margin = min(0.5, 1.3 * radius)
    center = rng.uniform(margin, 1 - margin, 2)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.6)
    dx, dy = x - center[0], y - center[1]
    a = (dx * np.cos(turn) + dy * np.sin(turn)) / stretch**0.5
    b = (dy * np.cos(turn) - dx * np.sin(turn)) * stretch**0.5
    theta = np.arctan2(b, a)
    edge = np.ones_like(theta)
    for wave in range(2, 7):
        edge += roughness / wave * rng.normal() * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    depth: _Array = 1 - np.hypot(a, b) / (radius * edge.clip(0.4, 1.6))
    return depth


def _draw_hole(rng: np.random.Generator, surface: _Array) -> tuple[_Array, _Array]:
    """The weave is missing: a dark ground with a few loose strands."""
    size = len(surface)
    radius = rng.uniform(0.03, 0.09)
    depth = _blob(rng, size, radius, 0.35)
    opacity = (depth * radius * size + 0.5).clip(0, 1)
    strands = (np.abs(_field(rng, size, 24)) < 0.12) & (depth < 0.6)
    shade = 1 + 0.25 * _field(rng, size, 12)
    color = _GAP_COLOR * shade[..., None] + 0.45 * strands[..., None] * surface
    return color, opacity


def _draw_scratch(rng: np.random.Generator, surface: _Array) -> tuple[_Array, _Array]:
    """A thin bent line, bright or dark."""
    size = len(surface)
    x, y = _grid(size)
    start, direction = rng.uniform(0.2, 0.8, 2), rng.uniform(0, 2 * np.pi)
    # Point the line inwards, so that most of it lies in the image.
    if np.dot(start - 0.5, [np.cos(direction), np.sin(direction)]) > 0:
        direction += np.pi
    length, bend = rng.uniform(0.2, 0.65), rng.normal(0, 0.08)
    along = np.linspace(0, 1, 4 * size)
    line_x = start[0] + length * along * np.cos(direction)
    line_y = start[1] + length * along * np.sin(direction)
    bow = bend * length * 4 * along * (1 - along)
    line_x, line_y = line_x - bow * np.sin(direction), line_y + bow * np.cos(direction)
    squared = np.full((size, size), np.inf)
    for px, py in zip(line_x, line_y, strict=True):
        np.minimum(squared, (x - px) ** 2 + (y - py) ** 2, out=squared)
    half_width = rng.uniform(0.5, 1.1) * size / 128
    opacity = (half_width + 0.5 - np.sqrt(squared) * size).clip(0, 1)
    shift = rng.choice([-0.30, 0.30]) * (1 + 0.2 * _field(rng, size, 16))
    return (surface + shift[..., None]).clip(0, 1), opacity


def _draw_stain(rng: np.random.Generator, surface: _Array) -> tuple[_Array, _Array]:
    """A brownish spot through which the weave shows."""
    size = len(surface)
    depth = _blob(rng, size, rng.uniform(0.07, 0.20), 0.35)
    strength = rng.uniform(0.55, 0.85)
    soak = (4 * depth + 0.15 * _field(rng, size, 20)).clip(0, 1)
    # Cut off the faintest rim, so that every pixel of the mask is visible.
    opacity = np.where((depth > 0) & (soak > 0.25), strength * soak, 0.0)
    brightness = surface.mean(axis=2, keepdims=True)
    return 1.25 * brightness * _STAIN_COLOR, opacity


_DEFECTS: dict[str, Callable[[np.random.Generator, _Array], tuple[_Array, _Array]]] = {
    "hole": _draw_hole,
    "scratch": _draw_scratch,
    "stain": _draw_stain,
}
