"""Draws anomaly maps over their images, with one color scale for all images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_THRESHOLD_AT = 1 / 3  # position of the threshold on a scale; most anomalies are far above it
_MIN_SIDE = 256
_MAX_SIDE = 1024
_SUPERSAMPLING = 2

# Position on the scale, color, opacity. Pale blue below the threshold, yellow to red above it.
_RAMP = (
    (0.0, (70, 130, 210), 0.0),
    (_THRESHOLD_AT, (70, 130, 210), 0.3),
    (_THRESHOLD_AT, (255, 221, 50), 0.6),
    (0.6, (250, 120, 20), 0.68),
    (1.0, (205, 0, 30), 0.75),
)
_GREYING = 0.8  # share of the image's own color that is removed below the overlay
_CONTOUR = (255, 255, 255)
_CASING = (20, 20, 20)
_MASK = (0, 225, 255)
_INK = (25, 25, 25)
_FAINT_INK = (95, 95, 95)
_PAPER = (255, 255, 255)
_GAP = 12


@dataclass(frozen=True)
class ColorScale:
    """Maps anomaly scores to colors, in the same way for all images.

    The first third between `low` and `high` is pale blue and almost transparent; the rest goes from
    yellow through orange to red. Scores outside the bounds get the color of the nearer bound.

    Attributes:
        low: Score of the fully transparent end.
        high: Score of the red end.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"low is {self.low} and high {self.high}, expected finite low < high")

    @classmethod
    def fit(cls, calibration_maps: npt.NDArray[np.floating], threshold: float | None) -> ColorScale:
        """A scale that starts at the median score of the calibration maps, with the threshold at
        one third.

        Args:
            calibration_maps: Anomaly maps of good images, `[N, S, S]`.
            threshold: Scores above it are yellow to red. If None, the maximum of the maps.

        Raises:
            ValueError: The maps are empty or hold NaN or infinity.
        """
        maps = np.asarray(calibration_maps)
        if maps.size == 0:
            raise ValueError("calibration_maps is empty")
        limit = float(maps.max()) if threshold is None else threshold
        low = float(np.median(maps))
        if low >= limit:  # constant maps, or a threshold set by hand below the median
            low = 0.0 if limit > 0 else limit - 1.0
        return cls(low, low + (limit - low) / _THRESHOLD_AT)

    def place(self, scores: npt.NDArray[np.floating]) -> FloatArray:
        """Positions of scores on the scale, float32 in [0, 1], in the shape of `scores`."""
        places = (np.asarray(scores, np.float64) - self.low) / (self.high - self.low)
        return np.clip(places, 0, 1).astype(np.float32)

    def colors(self, scores: npt.NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        """Colors `[..., 3]`, 0 to 255, and opacities `[..., 1]`, 0 to 1, of scores `[...]`."""
        places = self.place(scores)
        stops = np.array([stop for stop, _, _ in _RAMP])
        channels = np.array([(*color, opacity) for _, color, opacity in _RAMP])
        rgba = np.stack([np.interp(places, stops, channel) for channel in channels.T], axis=-1)
        return rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32)


def overlay(
    image: Image.Image,
    anomaly_map: npt.NDArray[np.floating],
    scale: ColorScale,
    *,
    threshold: float | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draws an anomaly map in color over its image.

    Args:
        image: The image.
        anomaly_map: Its scores, `[S, S]`, stretched to the aspect ratio of the image.
        scale: The colors.
        threshold: A white line surrounds the pixels above it; None for no line.
        mask: The true anomaly, `[H, W]` of any size, drawn as a cyan outline; None for no outline.

    Returns:
        RGB, in the size of the image, scaled so that the shorter side is at least 256 and the
        longer side at most 1024 pixels; the latter takes precedence.

    Raises:
        ValueError: The map or the mask is not two-dimensional, or the map holds NaN or infinity.
    """
    width, height = image.size
    factor = min(max(1.0, _MIN_SIDE / min(width, height)), _MAX_SIDE / max(width, height))
    return _paint(_resized(image, factor), anomaly_map, scale, threshold, mask)


def anomalous_region(
    anomaly_map: npt.NDArray[np.floating], threshold: float, size: tuple[int, int]
) -> BoolArray:
    """The pixels of an image that score above the threshold.

    The map is resized to the image (bilinear) before it is compared with the threshold. If any
    score of the map is above the threshold, at least one pixel is.

    Args:
        anomaly_map: Scores of the whole image, `[S, S]`, for any aspect ratio.
        threshold: Scores above it are anomalous.
        size: Width and height of the image in pixels.

    Returns:
        bool `[height, width]`.
    """
    scores = np.asarray(anomaly_map, np.float32)
    width, height = size
    region = _resized_scores(scores, size) > threshold
    if not region.any() and scores.max() > threshold:
        # Resizing flattened a single peak, which must stay visible: the image is anomalous.
        peak_row, peak_column = np.unravel_index(int(scores.argmax()), scores.shape)
        row = int((peak_row + 0.5) * height / scores.shape[0])
        column = int((peak_column + 0.5) * width / scores.shape[1])
        region[row, column] = True
    return region


def outline(image: Image.Image, mask: npt.NDArray[np.bool_]) -> Image.Image:
    """Draws a cyan line around the true anomaly; size and colors of the image stay the same."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    return _to_image(_draw_mask(pixels, image.size, mask))


def side_by_side(
    panels: Sequence[tuple[str, Image.Image]],
    *,
    caption: str,
    scale: ColorScale | None = None,
    threshold: float | None = None,
    cell: int = 320,
) -> Image.Image:
    """Places pictures in a row below a caption. Each has a square cell, with its name below.

    Args:
        panels: Names and pictures. Pictures are resized to fit the cell.
        caption: One or several lines of text; long lines are shortened.
        scale: Scale of the color bar; None for no color bar.
        threshold: A value to mark on the color bar; None for no mark.
        cell: Side of a cell in pixels.

    Returns:
        RGB. The size depends only on the number of panels, the number of lines in the caption,
        `cell`, and whether there is a color bar.
    """
    title_font, font = _font(round(cell / 20), bold=True), _font(round(cell / 22))
    line_height = round(cell / 13)
    bar_width = round(0.42 * cell) if scale is not None else 0
    lines = caption.split("\n")
    top = _GAP + len(lines) * line_height + _GAP // 2
    width = _GAP + len(panels) * (cell + _GAP) + bar_width
    canvas = Image.new("RGB", (width, top + cell + line_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        ink, line_font = (_INK, title_font) if row == 0 else (_FAINT_INK, font)
        text = _shortened(line, line_font, width - 2 * _GAP)
        draw.text((_GAP, _GAP + row * line_height), text, fill=ink, font=line_font)
    for column, (name, picture) in enumerate(panels):
        left = _GAP + column * (cell + _GAP)
        fitted = fit_to_cell(picture, cell)
        offset = ((cell - fitted.width) // 2, (cell - fitted.height) // 2)
        canvas.paste(fitted, (left + offset[0], top + offset[1]))
        text = _shortened(name, font, cell)
        middle = (left + cell // 2, top + cell + line_height // 2 + 2)
        draw.text(middle, text, fill=_FAINT_INK, font=font, anchor="mm")
    if scale is not None:
        bar = (width - bar_width, top, width - bar_width + round(cell / 14), top + cell)
        _draw_color_bar(canvas, bar, scale, threshold, font)
    return canvas


def case_panel(
    image: Image.Image,
    anomaly_map: npt.NDArray[np.floating],
    scale: ColorScale,
    *,
    name: str | PurePath,
    type: str,
    score: float,
    threshold: float | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    remark: str = "",
    cell: int = 320,
) -> Image.Image:
    """Draws the panels of one image: the image, its true anomaly, and its anomaly map.

    Args:
        image: The image.
        anomaly_map: Its scores, `[S, S]`.
        scale: The colors.
        name: File name.
        type: Anomaly type.
        score: Image score.
        threshold: Images with a score above it are called anomalous; None for no verdict.
        mask: The true anomaly, `[H, W]` of any size; None for no panel of it.
        remark: Text at the end of the caption.
        cell: Side of a cell in pixels.
    """
    picture = fit_to_cell(image, cell)
    facts = [type, f"score {score:.4g}"]
    if threshold is not None:
        verdict = "anomalous" if score > threshold else "good"
        facts.append(f"verdict {verdict} (threshold {threshold:.4g})")
    if remark:
        facts.append(remark)
    panels = [("image", picture)]
    if mask is not None and mask.any():
        panels.append(("true anomaly", outline(picture, mask)))
    panels.append(("anomaly map", _paint(picture, anomaly_map, scale, threshold, mask)))
    return side_by_side(
        panels,
        caption=f"{name}\n{'  |  '.join(facts)}",
        scale=scale,
        threshold=threshold,
        cell=cell,
    )


def fit_to_cell(image: Image.Image, cell: int) -> Image.Image:
    """Converts an image to RGB and resizes its longer side to `cell` pixels."""
    return _resized(image, cell / max(image.size))


def _resized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    rgb = image.convert("RGB")
    return rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BICUBIC)


def _paint(
    image: Image.Image,
    anomaly_map: npt.NDArray[np.floating],
    scale: ColorScale,
    threshold: float | None,
    mask: npt.NDArray[np.bool_] | None,
) -> Image.Image:
    scores = np.asarray(anomaly_map, np.float32)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"anomaly_map has shape {scores.shape}, expected [S, S]")
    if not np.isfinite(scores).all():
        raise ValueError("anomaly_map holds NaN or infinity")
    pixels = np.asarray(image.convert("RGB"), np.float32)
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    pixels = pixels + _GREYING * (grey - pixels)
    colors, opacity = scale.colors(_resized_scores(scores, image.size))
    pixels = pixels + opacity * (colors - pixels)
    if threshold is not None:
        pixels = _draw_contour(pixels, image.size, scores, threshold)
    if mask is not None:
        pixels = _draw_mask(pixels, image.size, mask)
    return _to_image(pixels)


def _draw_contour(
    pixels: FloatArray, size: tuple[int, int], scores: FloatArray, threshold: float
) -> FloatArray:
    """Draws a line just outside the region above the threshold, so that it hides nothing."""
    region = anomalous_region(scores, threshold, _fine(size))
    line = _grown(region, _line_width(size))
    pixels = _blend(pixels, _grown(line, 2) & ~line, _CASING, 0.6)
    return _blend(pixels, line & ~region, _CONTOUR, 1.0)


def _draw_mask(
    pixels: FloatArray, size: tuple[int, int], mask: npt.NDArray[np.bool_]
) -> FloatArray:
    """Draws a line just outside the true anomaly, so that it hides nothing."""
    truth = np.asarray(mask, np.bool_)
    if truth.ndim != 2:
        raise ValueError(f"mask has shape {truth.shape}, expected [H, W]")
    picture = Image.fromarray(truth.astype(np.uint8) * 255)
    width, height = _fine(size)
    region = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) >= 128
    if not region.any():  # the anomaly is smaller than a pixel of the picture
        rows, columns = np.nonzero(truth)
        region[rows * height // truth.shape[0], columns * width // truth.shape[1]] = True
    inner = _grown(region, 1)
    line = _grown(inner, _line_width(size))
    pixels = _blend(pixels, _grown(line, 1) & ~line, _CASING, 0.5)
    return _blend(pixels, line & ~inner, _MASK, 1.0)


def _line_width(size: tuple[int, int]) -> int:
    """Width of lines in pixels of the fine (supersampled) grid."""
    return max(2, round(_SUPERSAMPLING * max(size) / 300))


def _fine(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING


def _resized_scores(scores: FloatArray, size: tuple[int, int]) -> FloatArray:
    # No antialiasing filter: when the map is reduced, which is rare, averaging would remove peaks.
    picture = Image.fromarray(scores)
    if size[0] < scores.shape[1] or size[1] < scores.shape[0]:
        whole = Image.Transform.EXTENT, (0, 0, scores.shape[1], scores.shape[0])
        return np.asarray(picture.transform(size, *whole, Image.Resampling.BILINEAR))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _grown(region: BoolArray, steps: int) -> BoolArray:
    """Grows a region by 8- and 4-connected neighbors in turn, which rounds corners."""
    grown: BoolArray = region.copy()
    for step in range(steps):
        before = grown.copy()
        grown[1:] |= before[:-1]
        grown[:-1] |= before[1:]
        if step % 2:
            before = grown.copy()
        grown[:, 1:] |= before[:, :-1]
        grown[:, :-1] |= before[:, 1:]
    return grown


def _blend(
    pixels: FloatArray, line: BoolArray, color: tuple[int, int, int], opacity: float
) -> FloatArray:
    """Draws a line of the fine grid, antialiased by its coverage of each pixel."""
    height, width = pixels.shape[:2]
    blocks = line.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING)
    coverage = blocks.mean(axis=(1, 3), dtype=np.float32)[..., None] * np.float32(opacity)
    blended: FloatArray = pixels + coverage * (np.array(color, np.float32) - pixels)
    return blended


def _to_image(pixels: FloatArray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _draw_color_bar(
    canvas: Image.Image,
    box: tuple[int, int, int, int],
    scale: ColorScale,
    threshold: float | None,
    font: ImageFont.FreeTypeFont,
) -> None:
    left, top, right, bottom = box
    height = bottom - top
    scores = np.linspace(scale.high, scale.low, height)[:, None].repeat(right - left, axis=1)
    colors, opacity = scale.colors(scores)
    grey = np.full_like(colors, 150)  # the bar shows colors as over a mid-gray image
    canvas.paste(_to_image(grey + opacity * (colors - grey)), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=_FAINT_INK)
    half_line = 0.6 * font.getbbox("0")[3]
    labels = [(1.0, f"{scale.high:.4g}", "or more"), (0.0, f"{scale.low:.4g}", "or less")]
    if threshold is not None:
        labels.append((float(scale.place(np.array(threshold))), f"{threshold:.4g}", "threshold"))
    for place, value, word in labels:
        y = bottom - 1 - place * (height - 1)
        draw.line((left, y, right + 5, y), fill=_INK)
        y = min(max(y, top + 2 * half_line), bottom - 2 * half_line)
        for row, text in ((-1, value), (1, word)):
            at = (right + 9, y + row * half_line)
            draw.text(at, text, fill=_INK, font=font, anchor="lm")


@functools.cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Matplotlib's font covers more characters than Pillow's, and file names may contain any.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), max(9, size))


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, shortened in the middle until it fits the width."""
    shown = text
    kept = len(text)
    while font.getlength(shown) > width and kept > 0:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    return shown
