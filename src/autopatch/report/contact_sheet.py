"""Contact sheets: synthetic anomalies of all kinds at a glance."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from autopatch.data import DEFAULT_READING, Anomaly, Reading, read_image, read_mask
from autopatch.errors import InputError
from autopatch.files import StrPath, new_file
from autopatch.report.overlay import fit_to_cell, outline

_CELL = 160
_GAP = 12
_SEAM = 2  # between the two pictures of a pair
_HEADING = 18
_TEXT = 12
_INK = (25, 25, 25)
_FAINT_INK = (95, 95, 95)
_PAPER = (255, 255, 255)


def write_contact_sheet(
    anomalies: Iterable[Anomaly],
    path: StrPath,
    *,
    reading: Reading = DEFAULT_READING,
    columns: int = 5,
) -> Path:
    """Writes a PNG with a row for each kind of anomaly.

    Each anomaly is shown twice, as it is and with a line around its mask; below it are the name of
    the good image and the anomalous share of the image. A picture has 160 pixels on its longer
    side.

    Args:
        anomalies: The anomalies; rows are in the order in which the kinds first occur.
        path: The file to write; an existing file is replaced.
        reading: How masks are read.
        columns: Largest number of anomalies in a row; the others of their kind are left out.

    Returns:
        `path`.

    Raises:
        InputError: There are no anomalies, `columns` is below 1, an image cannot be read, or the
            file cannot be written.
    """
    if columns < 1:
        raise InputError(f"`columns` is {columns}, expected at least 1")
    rows: dict[str, list[Anomaly]] = {}
    for anomaly in anomalies:
        rows.setdefault(anomaly.sample.type, []).append(anomaly)
    if not rows:
        raise InputError("`anomalies` is empty, expected at least one")
    longest = min(columns, max(map(len, rows.values())))
    pair_width = 2 * _CELL + _SEAM
    heading, text = _HEADING + 2 * _GAP, _TEXT + _GAP
    row_height = heading + _CELL + text
    size = (_GAP + longest * (pair_width + _GAP), len(rows) * row_height + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for top, (kind, members) in zip(itertools.count(0, row_height), rows.items(), strict=False):
        counted = f"{kind} ({min(len(members), columns)} of {len(members)})"
        draw.text((_GAP, top + _GAP), counted, fill=_INK, font=_font(_HEADING))
        for column, anomaly in enumerate(members[:columns]):
            left = _GAP + column * (pair_width + _GAP)
            pictures, share = _pair(anomaly, reading)
            for offset, picture in zip((0, _CELL + _SEAM), pictures, strict=True):
                sheet.paste(picture, (left + offset, top + heading))
            caption = f"{share:.2%}  {anomaly.source.image.name}"
            at = (left, top + heading + _CELL + _GAP // 3)
            draw.text(at, _cut(caption, pair_width), fill=_FAINT_INK, font=_font(_TEXT))
    with new_file(path) as unfinished:
        sheet.save(unfinished, format="PNG")
    return Path(path)


def _pair(anomaly: Anomaly, reading: Reading) -> tuple[tuple[Image.Image, Image.Image], float]:
    """The image as it is and with an outline, and the anomalous share of it."""
    assert anomaly.sample.mask is not None
    picture = fit_to_cell(read_image(anomaly.sample.image, reading), _CELL)
    mask = np.asarray(read_mask(anomaly.sample.mask, reading)) > 0
    return (picture, outline(picture, mask)), float(mask.mean())


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _cut(text: str, width: int) -> str:
    """The text, cut at its end until it fits the width."""
    font = _font(_TEXT)
    shown = text
    while len(shown) > 3 and font.getlength(shown) > width:
        shown = f"{shown[:-4]}..."
    return shown
