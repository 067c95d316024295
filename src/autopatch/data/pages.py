"""Refuses files with several pictures: pages, image stacks, animations."""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

from autopatch.errors import InputError
from autopatch.files import StrPath

_SUBFILE_TYPE = 254  # tag of TIFF
_REDUCED, _TRANSPARENCY = 1, 4


def require_one_picture(image: Image.Image, name: StrPath) -> None:
    """Refuses an opened file with several pictures, because only the first would be read.

    Reduced copies and transparency masks in a TIFF file do not count. In a camera's JPEG file (MPO)
    only the first picture counts; the others are previews.

    Args:
        image: An image that Pillow has opened but not loaded.
        name: Name of the image in the message.

    Raises:
        InputError: There are several pictures.
    """
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        count = _pages(image)
    else:
        count = int(getattr(image, "n_frames", 1))
    if count > 1:
        raise InputError(f"{name}: {count} pictures in one file, expected a file for each")


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
    pages = 1
    for frame in range(1, image.n_frames):
        image.seek(frame)
        if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & (_REDUCED | _TRANSPARENCY):
            pages += 1
    image.seek(0)
    return pages
