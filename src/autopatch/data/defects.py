"""Images of known defects in a folder, paired with their masks."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from autopatch.data.samples import GOOD, Sample
from autopatch.data.walker import walk
from autopatch.errors import InputError
from autopatch.files import StrPath, path_kind

logger = logging.getLogger(__name__)

_MASK = "_mask"
_DEFECT = "defect"


def defect_samples(folder: StrPath) -> list[Sample]:
    """Finds images of known defects in a folder and its subfolders and pairs them with their masks.

    The mask of `NAME.png` lies beside it as `NAME_mask.png`; both may have any suffix of
    `IMAGE_SUFFIXES`. The type of a defect is the name of the folder that its image lies in, or
    "defect" for images that lie in `folder` itself. A data set in the MVTec-AD layout may be given
    too: its images are those in `test`, except `test/good`, and their masks lie in `ground_truth`.

    Skipped files and folders are logged as warnings.

    Raises:
        InputError: There is no image, an image has no mask, a mask has no image, the folder holds
            good images, or a folder cannot be read.
    """
    root = Path(folder)
    if path_kind(root) != "folder":
        raise InputError(f"{folder}: no such folder, expected one with images of defects and masks")
    if path_kind(root / "ground_truth") == "folder":
        images, masks = _images(root / "test"), _images(root / "ground_truth")
        images = {name: path for name, path in images.items() if name.parts[0] != GOOD}
        beside = root / "ground_truth"
    else:
        both = _images(root)
        masks = {name: path for name, path in both.items() if name.name.endswith(_MASK)}
        images = {name: path for name, path in both.items() if name not in masks}
        beside = root
    samples = []
    for name, path in images.items():
        found = [n for n in (name.with_name(name.name + _MASK), name) if n in masks]
        if not found:
            expected = (beside / name).with_name(f"{name.name}{_MASK}.png")
            raise InputError(f"{path}: no mask, expected {expected}")
        kind = name.parent.name or _DEFECT
        if kind == GOOD:
            raise InputError(f"{path}: a good image, expected only images of defects")
        samples.append(Sample(path, kind, masks.pop(found[0])))
    if masks:
        raise InputError(f"{min(masks.values())}: a mask without an image")
    if not samples:
        raise InputError(f"{folder}: no image of a defect in this folder")
    return samples


def _images(folder: Path) -> dict[Path, Path]:
    """The images of a folder and its subfolders by relative path without the suffix, sorted."""
    found = walk(folder)
    for note in found.notes:
        logger.warning(note)
    names = {path.relative_to(folder).with_suffix(""): path for path in found.images}
    _refuse_equal_names(found.images, names.values())
    return names


def _refuse_equal_names(images: Iterable[Path], named: Iterable[Path]) -> None:
    hidden = sorted(set(images) - set(named))
    if hidden:
        raise InputError(
            f"{hidden[0]}: another image differs from it only in its suffix, expected different "
            "names, since masks are paired by name"
        )
