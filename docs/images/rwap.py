"""The worked example of docs/method.md, and its picture.

    python docs/images/rwap.py                  # writes rwap.png beside this file

Three images of 8 x 8 pixels: one with two stains, one with a hole, a good one. Both detectors give
the score 0.9 to the pixels they mark and 0.1 to all others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from autopatch.kernels import pixel_metrics
from autopatch.kernels.reference import metrics as reference

TYPES = ("stain", "hole", "good")

# "#" is anomalous in the truth, and marked in the map of a detector.
TRUTH = """
........   ........   ........
.#####..   ........   ........
.#####..   ........   ........
.#####..   .....#..   ........
.#####..   .....#..   ........
........   ........   ........
.....##.   ........   ........
........   ........   ........
"""
DETECTORS = {
    "A": """
........   ........   ........
.#####..   ........   ........
.#####..   ........   ..###...
.#####..   ........   ........
.#####..   ........   ........
........   ........   ........
........   .##.....   ........
........   ........   ........
""",
    "B": """
........   ........   ........
........   ........   ........
..###...   ........   ..###...
..###...   .....#..   ........
........   .....#..   ........
........   ........   ........
.....##.   .##.....   ........
........   ........   ........
""",
}

_SIDE = 8
_WEIGHT_COLORS = {0.3: "#cbe7d5", 3.0: "#58ad7e", 6.0: "#0b5233"}
_DETECTOR_COLORS = {"A": "#d55e00", "B": "#0072b2"}
_INK, _PALE = "#222222", "#8a8a8a"


def pixels(drawing: str) -> np.ndarray:
    """A drawing as bool `[3, 8, 8]`."""
    rows = [line.split() for line in drawing.split("\n") if line]
    return np.array([[[c == "#" for c in row[i]] for row in rows] for i in range(len(TYPES))])


def scores(detector: str) -> np.ndarray:
    """The anomaly maps of a detector, `[3, 8, 8]`."""
    return np.where(pixels(DETECTORS[detector]), 0.9, 0.1)


def weights() -> np.ndarray:
    """What each pixel weighs in rwAP, `[3, 8, 8]`."""
    return reference.pixel_weights(torch.from_numpy(pixels(TRUTH)), TYPES)[0].numpy()


def metrics(detector: str) -> dict[str, float]:
    """All metrics of a detector."""
    return pixel_metrics(scores(detector), pixels(TRUTH), TYPES).as_dict()


def draw(path: Path) -> None:
    """Draws the example as PNG."""
    width, height, tile = 9.0, 5.45, 1.38
    figure = Figure(figsize=(width, height), dpi=200)
    FigureCanvasAgg(figure)

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, y / height, words, **({"fontsize": 10, "color": _INK} | style))

    heading = {"fontsize": 11, "fontweight": "bold", "va": "bottom", "linespacing": 1.25}
    columns = {
        "truth": (0.62, "Truth: 3 defects\nof 2 types", _INK),
        "A": (2.12, "Detector A\nsees 1 of 3", _DETECTOR_COLORS["A"]),
        "B": (3.62, "Detector B\nsees 3 of 3", _DETECTOR_COLORS["B"]),
    }
    for x, words, color in columns.values():
        text(x + tile / 2, 4.82, words, color=color, ha="center", **heading)
    for image, name in enumerate(TYPES):
        y = 3.4 - 1.48 * image
        text(0.55, y + tile / 2, name, ha="right", va="center")
        for column, (x, _, _) in columns.items():
            axes = figure.add_axes((x / width, y / height, tile / width, tile / height))
            axes.set(xlim=(0, _SIDE), ylim=(_SIDE, 0), xticks=[], yticks=[])
            axes.spines[:].set_color(_PALE)
            if column == "truth":
                _draw_truth(axes, image)
            else:
                _draw_map(axes, image, column)
    text(0.62, 0.17, "pixels × weight = what a defect counts", fontsize=9, va="center")
    legend = figure.add_axes((3.62 / width, 0.06 / height, tile / width, 0.22 / height))
    legend.set(xlim=(0, _SIDE), ylim=(1.28, 0))
    legend.axis("off")
    legend.add_patch(Rectangle((0, 0.14), 1, 1, **_FALSE))
    legend.text(1.4, 0.64, "false alarm", fontsize=9, color=_INK, va="center")
    text(7.2, 4.82, "AP prefers A: it finds most pixels.\nrwAP prefers B: it finds every defect.",
         ha="center", **heading)  # fmt: skip
    _draw_bars(figure.add_axes((5.45 / width, 0.95 / height, 3.4 / width, 3.6 / height)))
    figure.savefig(path, format="png", metadata={"Software": None})


_FALSE: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": "#555555",
    "hatch": "xxxx",
    "linewidth": 0,
}


def _draw_truth(axes: Any, image: int) -> None:
    for (row, column), weight in np.ndenumerate(weights()[image]):
        if pixels(TRUTH)[image, row, column]:
            color = _WEIGHT_COLORS[round(float(weight), 6)]
            axes.add_patch(Rectangle((column, row), 1, 1, color=color, linewidth=0))
    style: dict[str, Any] = {"fontsize": 9, "color": _INK, "ha": "center", "va": "center"}
    if image == 0:
        axes.text(3.5, 3, "20 px × 0.3\n= 6", **style)
        axes.text(2.8, 6.5, "2 px × 3\n= 6", **style)
    elif image == 1:
        axes.text(2.5, 4.05, "2 px × 6\n= 12", **style)
    else:
        axes.text(4, 4, "nothing", **(style | {"color": _PALE}))


def _draw_map(axes: Any, image: int, detector: str) -> None:
    truth, marked = pixels(TRUTH)[image], pixels(DETECTORS[detector])[image]
    for row, column in np.argwhere(marked):
        style = _FALSE
        if truth[row, column]:
            style = {"color": _DETECTOR_COLORS[detector], "linewidth": 0}
        axes.add_patch(Rectangle((column, row), 1, 1, **style))
    # The outline of the defects: every side of a pixel where the truth changes.
    framed = np.pad(truth, 1)
    line = {"color": _INK, "linewidth": 1.1, "linestyle": (0, (2.2, 1.2))}
    for row, column in np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1]):
        axes.plot([column, column + 1], [row, row], **line)
    for row, column in np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1]):
        axes.plot([column, column], [row, row + 1], **line)


def _draw_bars(axes: Any) -> None:
    for group, metric in enumerate(("AP", "rwAP")):
        for shift, detector in ((-0.21, "A"), (0.21, "B")):
            value = metrics(detector)[metric]
            x = group + shift
            axes.bar(x, value, width=0.38, color=_DETECTOR_COLORS[detector])
            axes.text(x, value + 0.012, f"{value:.2f}", ha="center", va="bottom", fontsize=11)
            axes.text(x, 0.02, detector, ha="center", va="bottom", fontsize=12, color="white",
                      fontweight="bold")  # fmt: skip
    axes.set(xlim=(-0.55, 1.55), ylim=(0, 0.8), yticks=[])
    axes.set_xticks([0, 1], ["AP\nall pixels weigh 1", "rwAP\nweights as on the left"])
    axes.tick_params(axis="x", length=0, labelsize=10, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_PALE)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
