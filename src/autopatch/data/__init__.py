"""Image folders in the MVTec-AD layout: reading, checking, splitting, drawing.

- `mvtec`: `MVTecAD`, the images and masks of a folder, found and paired; `Sample`, one of them.
- `checks`: `check` and `require_valid`, every image and mask decoded and compared.
- `images`: `read_image`, `read_mask`, and stacks of them, `load_images`, `load_masks`.
- `splits`: `make_split`, which image plays which role; `Split`, the answer, JSON in and out.
- `textures`: `draw_textures`, a small synthetic data set of a woven surface.
"""

from __future__ import annotations

from autopatch.data.checks import check, require_valid
from autopatch.data.images import (
    EVALUATION_SIZE,
    load_images,
    load_masks,
    read_image,
    read_mask,
)
from autopatch.data.mvtec import GOOD, IMAGE_SUFFIXES, MVTecAD, Sample
from autopatch.data.splits import PROTOCOLS, Split, make_split
from autopatch.data.textures import draw_textures

__all__ = [
    "EVALUATION_SIZE",
    "GOOD",
    "IMAGE_SUFFIXES",
    "PROTOCOLS",
    "MVTecAD",
    "Sample",
    "Split",
    "check",
    "draw_textures",
    "load_images",
    "load_masks",
    "make_split",
    "read_image",
    "read_mask",
    "require_valid",
]
