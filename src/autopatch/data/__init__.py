"""Images of a data set: found, checked, split, read, drawn.

- `samples`: `Sample`, one image; `Dataset`, what the rest asks of a data set.
- `mvtec`: `MVTecAD`, a folder in the MVTec-AD layout, images and masks found and paired;
  `mvtec_layout` lists its folders, `layout_hints` says how to rename those of other layouts.
- `walker`: finds image files in folders, and says what it passed over.
- `checks`: `check`, `check_folder` and `require_valid`, every image and mask decoded and compared.
- `duplicates`: `Duplicates`, images that show the same picture.
- `images`: `ImageInput`, files, PIL images, arrays and tensors; `to_pil`, `as_images`,
  `read_image`, `read_mask`; `Preparation`, what gives them one size, such as `Square`; stacks of
  them, `load_images`, `load_masks`; `ImageReader`, batches read ahead and kept.
- `folders`: `folder_images`, images of a folder of any layout; `named_images`, the names of their
  results.
- `splits`: `make_split`, which image plays which role, by one of `PROTOCOLS`; `Split`, the
  answer, JSON in and out.
- `digest`: `Manifest`, contents and roles of a split's files, and how they differ from what they
  were; `pixels_digest`, of images of any kind.
- `textures`: `draw_textures`, a small synthetic data set of a woven surface.
"""

from __future__ import annotations

from autopatch.data.checks import CheckedFolder, Findings, check, check_folder, require_valid
from autopatch.data.digest import Manifest, ManifestEntry, pixels_digest
from autopatch.data.duplicates import Duplicates
from autopatch.data.folders import folder_images, named_images
from autopatch.data.images import (
    EVALUATION_SIZE,
    ImageInput,
    ImageReader,
    Preparation,
    Square,
    as_images,
    load_images,
    load_masks,
    read_image,
    read_mask,
    to_pil,
)
from autopatch.data.mvtec import MVTecAD
from autopatch.data.samples import GOOD, Dataset, Sample
from autopatch.data.splits import PROTOCOLS, Split, SplitProtocol, make_split
from autopatch.data.textures import draw_textures
from autopatch.data.walker import IMAGE_SUFFIXES

__all__ = [
    "EVALUATION_SIZE",
    "GOOD",
    "IMAGE_SUFFIXES",
    "PROTOCOLS",
    "CheckedFolder",
    "Dataset",
    "Duplicates",
    "Findings",
    "ImageInput",
    "ImageReader",
    "MVTecAD",
    "Manifest",
    "ManifestEntry",
    "Preparation",
    "Sample",
    "Split",
    "SplitProtocol",
    "Square",
    "as_images",
    "check",
    "check_folder",
    "draw_textures",
    "folder_images",
    "load_images",
    "load_masks",
    "make_split",
    "named_images",
    "pixels_digest",
    "read_image",
    "read_mask",
    "require_valid",
    "to_pil",
]
