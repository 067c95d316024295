"""Files that hold several pictures: pages, layers of a stack, frames of an animation."""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

from autopatch.errors import InputError
from autopatch.files import StrPath

_SUBFILE_TYPE = 254  # tag of TIFF
_REDUCED, _TRANSPARENCY = 1, 4


def require_one_picture(image: Image.Image, name: StrPath) -> None:
    """Refuses an opened file with several pictures, of which all but the first would be lost.

    Reduced copies and transparency masks in a TIFF file are no pictures of their own. The pictures
    behind that of a camera's JPEG file (MPO) are previews.

    Args:
        image: What Pillow has opened, not loaded yet.
        name: What the message calls it.

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
