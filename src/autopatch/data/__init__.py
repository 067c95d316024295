"""Images of a data set: found, checked, split, read, drawn.

- `samples`: `Sample`, one image; `Dataset`, what the rest asks of a data set.
- `mvtec`: `MVTecAD`, a folder in the MVTec-AD layout, images and masks found and paired;
  `mvtec_layout` lists its folders, `layout_hints` says how to rename those of other layouts.
- `walker`: finds image files in folders, and says what it passed over.
- `checks`: `check`, `check_folder` and `require_valid`, every image and mask decoded and compared.
- `duplicates`: `Duplicates`, images that show the same picture.
- `folders`: `folder_images`, images of a folder of any layout; `named_images`, the names of their
  results.
- `reading`: `Reading`, how files become pixels; `ImageInput`, files, PIL images, arrays and
  tensors; `to_pil`, `as_images`, `read_image`; `decide`, the bit depth of images; `Remarks`, what
  was noticed.
- `masks`: `read_mask`, `load_masks`, masks at one size.
- `reader`: `Preparation`, what gives images one size, such as `Square`; `load_images`, a stack of
  them; `ImageReader`, batches read ahead and kept.
- `splits`: `make_split`, which image plays which role, by one of `PROTOCOLS`; `Split`, the
  answer, JSON in and out.
- `digest`: `Manifest`, contents and roles of a split's files, and how they differ from what they
  were; `pixels_digest`, of images of any kind.
- `textures`: `draw_textures`, a small synthetic data set of a woven surface.
"""

from __future__ import annotations

from autopatch.data.checks import CheckedFolder, Findings, check, check_folder, require_valid
from autopatch.data.digest import Manifest, ManifestEntry, image_digests, pixels_digest
from autopatch.data.duplicates import Duplicates
from autopatch.data.folders import folder_images, named_images
from autopatch.data.masks import EVALUATION_SIZE, load_masks, read_mask
from autopatch.data.mvtec import MVTecAD
from autopatch.data.reader import ImageReader, Preparation, Square, load_images
from autopatch.data.reading import (
    BIT_DEPTHS,
    DEFAULT_READING,
    ImageInput,
    Reading,
    Remarks,
    as_images,
    decide,
    read_image,
    to_pil,
)
from autopatch.data.samples import GOOD, Dataset, Sample
from autopatch.data.splits import PROTOCOLS, Split, SplitProtocol, make_split
from autopatch.data.textures import draw_textures
from autopatch.data.walker import IMAGE_SUFFIXES

__all__ = [
    "BIT_DEPTHS",
    "DEFAULT_READING",
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
    "Reading",
    "Remarks",
    "Sample",
    "Split",
    "SplitProtocol",
    "Square",
    "as_images",
    "check",
    "check_folder",
    "decide",
    "draw_textures",
    "folder_images",
    "image_digests",
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
