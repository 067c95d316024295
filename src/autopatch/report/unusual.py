"""Draws good images that do not look like the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from autopatch.errors import InputError
from autopatch.files import StrPath, new_file
from autopatch.report.overlay import ColorScale, overlay, side_by_side

_CELL = 300


def write_unusual(
    images: Sequence[tuple[str, Image.Image]],
    maps: npt.NDArray[np.float32],
    path: StrPath,
    *,
    scale: ColorScale,
    limit: float,
    columns: int = 2,
) -> Path:
    """Writes a PNG that shows each image, and beside it its anomaly map.

    Args:
        images: Name and picture of each image, in the order in which they are shown, row by row.
        maps: Their anomaly maps, `[n, S, S]`, in multiples of the median score.
        path: The file to write; an existing file is replaced.
        scale: The colors.
        limit: A white line surrounds the pixels above it; an image with such a pixel is unusual.
        columns: Number of images in a row, at least 1.

    Returns:
        `path`.

    Raises:
        InputError: There are no images, or the file cannot be written.
    """
    if not images:
        raise InputError("`images` is empty, expected at least one")
    panels = []
    for (name, picture), anomaly_map in zip(images, maps, strict=True):
        score = float(anomaly_map.max())
        verdict = "unusual" if score > limit else "not unusual"
        panels.append(
            side_by_side(
                [
                    ("image", picture),
                    ("anomaly map", overlay(picture, anomaly_map, scale, threshold=limit)),
                ],
                caption=f"{name}\nscore {score:.2f} x the median, {verdict} (limit {limit:.2f})",
                scale=scale,
                threshold=limit,
                cell=_CELL,
            )
        )
    width, height = panels[0].size
    columns = min(columns, len(panels))
    sheet = Image.new("RGB", (columns * width, -(-len(panels) // columns) * height), "white")
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(panel, (column * width, row * height))
    with new_file(path) as unfinished:
        sheet.save(unfinished, format="PNG", optimize=True)
    return Path(path)
