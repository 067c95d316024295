"""Data sets: finds, checks, splits, reads and draws images.

- `samples`: `Sample`, one image; `Dataset`, the interface of a data set.
- `mvtec`: `MVTecAD`, a folder in the MVTec-AD layout, with its images and masks paired;
  `mvtec_layout` lists its folders, `layout_hints` says how to rename other layouts.
- `walker`: finds image files in folders and reports the files that it skipped.
- `checks`: `check`, `check_folder` and `require_valid` decode and compare all images and masks.
- `duplicates`: `Duplicates`, images that show the same picture.
- `defects`: `defect_samples`, images of known defects and their masks in a folder.
- `folders`: `folder_images` and `folder_of_good`, images of a folder of any layout;
  `named_images`, the names of their results.
- `reading`: `Reading`, the settings that turn files into pixels; `ImageInput`, files, PIL images,
  arrays and tensors; `to_pil`, `as_images`, `read_image`; `decide`, the bit depth of images;
  `Remarks`, notes on unusual images.
- `masks`: `read_mask`, `to_mask`; `load_masks`, masks at one size; `Cells`, the good and the
  anomalous patches of an image.
- `reader`: `Preparation`, brings images to one size, as `Square` does; `load_images`, images in one
  tensor; `ImageReader`, batches with read-ahead and a cache.
- `cache`: `Cache`, values within a budget of memory.
- `splits`: `make_split` gives each image a role, by one of `PROTOCOLS`; `Split`, the result, to and
  from JSON.
- `digest`: `Manifest`, hashes and roles of a split's files, and what has changed in them;
  `image_digests` and `pixels_digest`, hashes of images of any kind.
- `synthetic`: `draw_anomalies`, defects drawn on good images; `Anomaly`, `load_anomalies`,
  `anomalies_digest`; `KINDS`, their kinds.
- `textures`: `draw_textures`, a small synthetic data set of a woven fabric.
"""

from __future__ import annotations

from autopatch.data.cache import Cache
from autopatch.data.checks import CheckedFolder, Findings, check, check_folder, require_valid
from autopatch.data.defects import defect_samples
from autopatch.data.digest import (
    Manifest,
    ManifestEntry,
    image_digests,
    joint_digest,
    pixels_digest,
)
from autopatch.data.duplicates import Duplicates
from autopatch.data.folders import folder_images, folder_of_good, named_images
from autopatch.data.masks import EVALUATION_SIZE, Cells, load_masks, read_mask, to_mask
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
from autopatch.data.samples import GOOD, Dataset, Sample, group_of
from autopatch.data.splits import PROTOCOLS, Split, SplitProtocol, make_split
from autopatch.data.synthetic import (
    DEFAULT_KINDS,
    KINDS,
    Anomaly,
    anomalies_digest,
    draw_anomalies,
    load_anomalies,
)
from autopatch.data.textures import draw_textures
from autopatch.data.walker import IMAGE_SUFFIXES

__all__ = [
    "BIT_DEPTHS",
    "DEFAULT_KINDS",
    "DEFAULT_READING",
    "EVALUATION_SIZE",
    "GOOD",
    "IMAGE_SUFFIXES",
    "KINDS",
    "PROTOCOLS",
    "Anomaly",
    "Cache",
    "Cells",
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
    "anomalies_digest",
    "as_images",
    "check",
    "check_folder",
    "decide",
    "defect_samples",
    "draw_anomalies",
    "draw_textures",
    "folder_images",
    "folder_of_good",
    "group_of",
    "image_digests",
    "joint_digest",
    "load_anomalies",
    "load_images",
    "load_masks",
    "make_split",
    "named_images",
    "pixels_digest",
    "read_image",
    "read_mask",
    "require_valid",
    "to_mask",
    "to_pil",
]
