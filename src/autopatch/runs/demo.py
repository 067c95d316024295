"""All steps on synthetic images."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from autopatch.data import draw_textures
from autopatch.errors import InputError
from autopatch.files import StrPath, require_writable_folder
from autopatch.progress import Progress
from autopatch.runs.predictions import write_predictions
from autopatch.runs.run import Run
from autopatch.runs.search import run_search
from autopatch.search import SearchError
from autopatch.supernet import DEFAULT_SPACE

logger = logging.getLogger(__name__)


def run_demo(
    out: StrPath = "autopatch-demo",
    *,
    evaluations: int = 24,
    space: str = DEFAULT_SPACE,
    weights: StrPath = "auto",
    progress: Progress | None = None,
) -> Run:
    """Draws textured parts with defects, then searches, fits, evaluates, reports and predicts.

    Args:
        out: Folder to create, with the subfolders "data", "run" and "predictions".
        evaluations: Number of architectures to evaluate.
        space: Search space.
        weights: See `load_supernet`.
        progress: Called after every step.

    Raises:
        InputError: The folder exists, or an argument is wrong.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: exists; remove it or give another `out`")
    require_writable_folder(out)
    if str(weights) == "random":
        logger.info("this demo runs on RANDOM features, so expect poor results")
    try:
        logger.info("drawing textured parts into %s", out / "data")
        draw_textures(out / "data")
        run = run_search(
            out / "data",
            out / "run",
            space=space,
            weights=weights,
            cost="total_flops",  # no latency to measure first
            shots=2,
            evaluations=evaluations,
            choices={"image_size": (128, 224), "bank_size": (500, 1000, 2500)},
            progress=progress,
        )
        detector = run.fit(progress=progress)
        run.evaluate(detector, progress=progress)
        run.report(detector, progress=progress)
        write_predictions(detector, out / "data" / "test", out / "predictions", progress=progress)
    except SearchError:  # the record holds the reasons
        raise
    except BaseException:  # everything can be drawn and computed again
        shutil.rmtree(out, ignore_errors=True)
        raise
    return run
