"""The folders of the MVTec-AD layout, and the files in them that are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopatch.data.layout_hints import layout_hint, looks_like_masks, misplaced_hint
from autopatch.data.samples import GOOD
from autopatch.data.walker import Listing, list_folder, others_passed_over, walk
from autopatch.errors import InputError
from autopatch.files import StrPath
from autopatch.words import counted, first_names


@dataclass(frozen=True)
class Layout:
    """The folders of a data set.

    Attributes:
        root: The folder of the data set.
        train: `train`, None if the images of `root` are the good ones.
        good: `train/good`, or `root` itself; has images.
        test: `test`, None if absent.
        test_good: `test/good`, None if absent.
        types: The other folders in `test`, sorted, each with images.
        truth: `ground_truth`, None if absent.
        masks: The folders in `ground_truth` by name, without `good`.
    """

    root: Listing
    train: Listing | None
    good: Listing
    test: Listing | None
    test_good: Listing | None
    types: tuple[Listing, ...]
    truth: Listing | None
    masks: Mapping[str, Listing]

    @classmethod
    def of(cls, folder: StrPath) -> Layout:
        """Lists the folders of a data set.

        In a folder with images and neither `train` nor `test`, all images are good.

        Raises:
            InputError: `train/good` is missing, other folders look like those of anomalous images,
                a folder has no images, or it cannot be read.
        """
        root = list_folder(folder)
        if not (root.images or root.folders or root.others):
            raise InputError(f"{folder}: the folder is empty, expected train/good and test/<type>")
        train, test, truth = (_inner(root, name) for name in ("train", "test", "ground_truth"))
        good, test_good = _inner(train, GOOD), _inner(test, GOOD)
        if train is None and test is None and root.images and not misplaced_hint(root):
            return cls(root, None, root, None, None, (), None, {})
        if train is None or good is None:
            hint = layout_hint(root)
            raise InputError(f"{folder}: no folder train/good, expected one with good images{hint}")
        _require_images(good)
        types = tuple(list_folder(inner) for inner in _folders(test) if inner.name != GOOD)
        if not types and (hint := misplaced_hint(root)):
            raise InputError(f"{folder}: no folder test/<type> with anomalous images{hint}")
        for listing in types:
            _require_images(listing)
        mask_folders = [] if truth is None else [f for f in truth.folders if f.name != GOOD]
        masks = {inner.name: list_folder(inner) for inner in mask_folders}
        return cls(root, train, good, test, test_good, types, truth, masks)

    def passed_over(self) -> tuple[str, ...]:
        """The skipped files and folders, one line per kind and folder.

        Raises:
            InputError: A subfolder of images cannot be read.
        """
        kinds = [listing.folder.name for listing in self.types]
        if self.train is None:
            return tuple(
                f"{self._place(self.root)}: {text}"
                for texts in (_masks_as_images(self.root), _inside(self.root))
                for text in texts
            )
        lines = [
            (self.root, _beside(self.root, ("train", "test", "ground_truth"))),
            (self.train, _beside(self.train, (GOOD,))),
        ]
        if self.test is not None:
            lines.append((self.test, _beside(self.test, (GOOD, *kinds))))
        if self.truth is not None:
            lines.append((self.truth, _beside(self.truth, kinds)))
        images = [self.good, *self.types]
        if self.test_good is not None:
            images.insert(1, self.test_good)
        lines += [(listing, _masks_as_images(listing)) for listing in images]
        lines += [(listing, _inside(listing)) for listing in (*images, *self.masks.values())]
        return tuple(
            f"{self._place(listing)}: {text}" for listing, texts in lines for text in texts
        )

    def _place(self, listing: Listing) -> str:
        if listing is self.root:
            return str(self.root.folder)
        return listing.folder.relative_to(self.root.folder).as_posix()


def _inner(listing: Listing | None, name: str) -> Listing | None:
    # Case counts: some file systems ignore it, but the data set may move to one that does not.
    folders = () if listing is None else listing.folders
    return next((list_folder(folder) for folder in folders if folder.name == name), None)


def _folders(listing: Listing | None) -> Sequence[Path]:
    return () if listing is None else listing.folders


def _require_images(listing: Listing) -> None:
    if not listing.images:
        inner = len(walk(listing.folder).images)
        hint = f"; move up the {counted(inner, 'image')} of its subfolders" if inner else ""
        raise InputError(
            f"{listing.folder}: no image in the folder, expected files such as 000.png{hint}"
        )


def _beside(listing: Listing, read: Sequence[str]) -> Iterator[str]:
    """Skipped folders and images beside the folders that are read."""
    folders = [folder for folder in listing.folders if folder.name not in read]
    for noun, paths in (("folder", folders), ("image", listing.images)):
        if paths:
            names = first_names([path.name for path in paths])
            count = counted(len(paths), noun)
            yield f"skipped {count} ({names}) beside {first_names(read)}"


def _masks_as_images(listing: Listing) -> Iterator[str]:
    if masks := looks_like_masks(listing):
        yield f"{masks} look like masks of other images, but are read as images"


def _inside(listing: Listing) -> Iterator[str]:
    """Skipped subfolders and other files in a folder of images."""
    if listing.folders:
        names = first_names([folder.name for folder in listing.folders])
        inner = len(walk(listing.folder).images) - len(listing.images)
        held = f"with {counted(inner, 'image')}; move these up to use them"
        count = counted(len(listing.folders), "subfolder")
        yield f"skipped {count} ({names}) {held if inner else 'without other images'}"
    if listing.others:
        yield others_passed_over(listing.others, listing.folder)
