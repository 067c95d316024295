"""Supernets: sets of weights from which a search extracts backbones.

- `Level`, `Backbone`: one feature level of a network; one subnet, as data.
- `Segment`: successive layers of a subnet, which other subnets may have in common with it;
  `Layers`, `single_map`: the layers themselves.
- `Supernet`: the interface of all supernets. `Preset`: settings of a search.
- `load_supernet`: a supernet by name; `weights_files`: the files it reads.
- `Family`, `FAMILIES`, `LoadOptions`: backbone families, their registry, and loading options.
- `TimmSupernet`: a timm backbone. `ElasticSupernet`: timm's inverted-residual networks made
  elastic by `ElasticTimmNetwork`. The published supernets are in `autopatch.published`.
- `Subnet`: a static network extracted from a supernet; `restore_subnet`: rebuilds one from a file.
- `in_float32`: a context in which networks compute in float32.
- `SeededWeights`: a context for random weights that depend only on a seed.
- `Weights`, `read_weights`: backbone weights with their metadata;
  `read_safetensors`: any file of tensors; `tensors_sha256`: a hash of tensors.
"""

from __future__ import annotations

from autopatch.supernet.backbone import Backbone, Level, Segment, check_level
from autopatch.supernet.elastic_network import ElasticSetting, ElasticTimmNetwork
from autopatch.supernet.elastic_supernet import ElasticSupernet
from autopatch.supernet.family import (
    DEFAULT_SPACE,
    FAMILIES,
    Family,
    load_supernet,
    restore_subnet,
    unknown_space,
    weights_files,
)
from autopatch.supernet.float32 import in_float32
from autopatch.supernet.random_weights import SeededWeights
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.supernet import Layers, Preset, Supernet, single_map
from autopatch.supernet.timm_supernet import TimmSupernet
from autopatch.supernet.weights import (
    LoadOptions,
    Weights,
    check_channels,
    random_provenance,
    read_safetensors,
    read_weights,
    tensors_sha256,
    weights_paths,
)

__all__ = [
    "DEFAULT_SPACE",
    "FAMILIES",
    "Backbone",
    "ElasticSetting",
    "ElasticSupernet",
    "ElasticTimmNetwork",
    "Family",
    "Layers",
    "Level",
    "LoadOptions",
    "Preset",
    "SeededWeights",
    "Segment",
    "Subnet",
    "Supernet",
    "TimmSupernet",
    "Weights",
    "check_channels",
    "check_level",
    "in_float32",
    "load_supernet",
    "random_provenance",
    "read_safetensors",
    "read_weights",
    "restore_subnet",
    "single_map",
    "tensors_sha256",
    "unknown_space",
    "weights_files",
    "weights_paths",
]
