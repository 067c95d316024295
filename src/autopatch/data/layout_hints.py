"""Hints for folders that nearly have the MVTec-AD layout: what was found, and how to rename it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from autopatch.data.samples import GOOD
from autopatch.data.walker import Listing, list_folder
from autopatch.errors import InputError
from autopatch.words import by_count, counted, first_names

# Names of folders as returned by `_plain`.
_GOOD_NAMES = frozenset({"good", "ok", "normal", "defectfree", "nondefective", "nodefect"})
_BAD_NAMES = frozenset({"bad", "ko", "ng", "nok", "defect", "defective", "anomaly", "anomalous"})
_MASK_NAMES = frozenset({"groundtruth", "gt", "mask", "label", "annotation", "segmentation"})
_TEST_NAMES = frozenset({"test", "testing", "testpublic", "testprivate"})

_MASK_ENDING = re.compile(
    r"[_\-. ]?(mask|gt|groundtruth|ground_truth|label|seg|annotation)s?$", re.I
)

_DEPTH = 4
_FOLDERS = 500


def layout_hint(root: Listing) -> str:
    """Says where the images of a folder are, and where the layout expects them.

    Returns:
        Text to append to an error message, beginning with "; " or ", "; empty if no images were
        found.
    """
    found = dict(_folders_of_images(root))
    for parts in found:
        if len(parts) > 2 and _plain(parts[1]) == "train":
            return f", as in {root.folder / parts[0]}: name one category's folder"
    moved = _moves(found)
    if found and not moved:
        names = ["/".join(parts) or str(root.folder) for parts in found]
        moved = f"; found images in {first_names(names)}"
    return moved + _masks_apart(root, found)


def misplaced_hint(root: Listing) -> str:
    """Says which folders have names that the layout expects elsewhere, and which images have masks
    beside them.

    Returns:
        See `layout_hint`; empty if there is neither.
    """
    found = dict(_folders_of_images(root))
    return _moves(found) + _masks_apart(root, found)


def _moves(found: Iterable[tuple[str, ...]]) -> str:
    moves: dict[str, str] = {}
    for parts in found:
        here, expected = _expected_place(parts)
        if expected is not None and here != expected:
            moves[here] = expected
    if not moves:
        return ""
    good_first = sorted(moves.items(), key=lambda move: move[1] != f"train/{GOOD}")
    said = [f"{here} should be {expected}" for here, expected in good_first]
    return f"; found images in other folders: {first_names(said)}"


def _masks_apart(root: Listing, found: Mapping[tuple[str, ...], Listing]) -> str:
    for listing in found.values():
        if pair := _mask_beside(listing.images):
            image, mask = (path.relative_to(root.folder).as_posix() for path in pair)
            return (
                f"; {mask} looks like the mask of {image}, masks should be in ground_truth/<type>"
            )
    return ""


def mask_hint(image: Path, images: Listing, masks: Listing | None, root: Listing) -> str:
    """Says why an image may have no mask, and what to do.

    Args:
        image: The image without a mask.
        images: Its folder, `test/<type>`.
        masks: `ground_truth/<type>`, None if there is no such folder.
        root: The folder of the data set.

    Returns:
        Text to append to an error message, beginning with "; "; empty without a hint.
    """
    kind, stem = images.folder.name, image.stem
    if masks is None or not (masks.images or masks.folders):
        if _plain(kind) in _GOOD_NAMES:
            return f"; if the images of {images.folder} are good, they should be in test/{GOOD}"
        if _plain(kind) in _MASK_NAMES:
            return f"; if the images of {images.folder} are masks, they should be in ground_truth"
    if pair := _mask_beside(images.images):
        return (
            f"; {pair[1]} looks like the mask of {pair[0].name}, masks should be in "
            f"ground_truth/{kind}"
        )
    if masks is None:
        return _mask_folder_hint(kind, root)
    for folder in masks.folders:
        if folder.name in (stem, f"{stem}_mask"):
            listing = _listed(folder)
            if listing is None or not listing.images:
                continue
            count = len(listing.images)
            todo = by_count(count, "move it to", "merge them into one mask,")
            return (
                f"; found {counted(count, 'image')} in the folder {folder}; {todo} {stem}_mask.png"
            )
    numbered = rf"(?<![0-9A-Za-z]){re.escape(stem)}(?![0-9A-Za-z])"
    for path in (*masks.images, *masks.others):
        if re.search(numbered, path.stem):
            return f"; found {path.name}, masks should be named <stem of the image>_mask.png"
    if masks.images:
        return f"; found {counted(len(masks.images), 'mask')} of other images in {masks.folder}"
    return ""


def looks_like_masks(images: Listing) -> str | None:
    """Names the images of a folder that look like masks of others; None if there are none."""
    masks = [mask.name for _, mask in _masks_beside(images.images)]
    return f"{counted(len(masks), 'image')} ({first_names(masks)})" if masks else None


def _mask_folder_hint(kind: str, root: Listing) -> str:
    """Where the masks may be if an anomaly type has no folder of masks."""
    for folder in root.folders:
        if _plain(folder.name) not in _MASK_NAMES:
            continue
        listing = _listed(folder)
        if listing is None:
            continue
        for inner in listing.folders:
            if inner.name.lower() == kind.lower():
                return f"; found {inner}, it should be ground_truth/{kind}"
        if listing.images:
            return (
                f"; found {counted(len(listing.images), 'image')} in {folder} itself, masks should "
                f"be in ground_truth/{kind}"
            )
        if listing.folders:
            names = first_names([inner.name for inner in listing.folders])
            return f"; found masks of {names} in {folder}"
    return ""


def _plain(name: str) -> str:
    """A name in lower case and singular, without separators."""
    joined = re.sub(r"[\W_]", "", name.lower())
    return re.sub("ies$", "y", joined).removesuffix("s")


def _expected_place(parts: tuple[str, ...]) -> tuple[str, str | None]:
    """The part of a path that says what its images are, and where the layout expects them."""
    names = [_plain(part) for part in parts]
    for i, name in enumerate(names):
        if name in _MASK_NAMES:
            kind = parts[i + 1] if i + 1 < len(parts) else "<type>"
            return "/".join(parts[: i + 2]), f"ground_truth/{kind}"
    for i, name in enumerate(names):
        if name in _GOOD_NAMES:
            tested = not _TEST_NAMES.isdisjoint(names[:i])
            return "/".join(parts[: i + 1]), f"{'test' if tested else 'train'}/{GOOD}"
    for i, name in enumerate(names):
        if name in _BAD_NAMES:
            return "/".join(parts[: i + 1]), f"test/{parts[i]}"
    if names and names[0] in _TEST_NAMES:
        return "/".join(parts[:2]), f"test/{parts[1] if len(parts) > 1 else '<type>'}"
    if names == ["train"]:
        return parts[0], f"train/{GOOD}"
    return "/".join(parts), None


def _folders_of_images(root: Listing) -> Iterator[tuple[tuple[str, ...], Listing]]:
    """Folders that hold images, nearest first. Depth and number of listed folders are limited."""
    level = [root]
    listed = 0
    for _ in range(_DEPTH + 1):
        inner: list[Listing] = []
        for listing in level:
            if listing.images:
                yield listing.folder.relative_to(root.folder).parts, listing
            for folder in listing.folders:
                if listed < _FOLDERS and not folder.is_symlink():
                    listed += 1
                    if (found := _listed(folder)) is not None:
                        inner.append(found)
        level = inner


def _listed(folder: Path) -> Listing | None:
    """The contents of a folder; None if it cannot be listed, as a hint must not raise."""
    try:
        return list_folder(folder)
    except InputError:
        return None


def _mask_beside(images: Iterable[Path]) -> tuple[Path, Path] | None:
    return next(_masks_beside(images), None)


def _masks_beside(images: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of image and mask in the same folder, such as 003.png and 003_mask.png."""
    by_stem = {path.stem: path for path in images}
    for stem, path in by_stem.items():
        image = by_stem.get(_MASK_ENDING.sub("", stem))
        if image is not None and image != path:
            yield image, path
