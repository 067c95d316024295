"""Supernets: the backbones that the search cuts its detectors from.

- `Level`, `Architecture`: one feature level of a backbone; one point of a search space.
- `Gene`, `SearchSpace`: a search space as data, an integer genome with names and choices.
- `Supernet`: what the rest of the program asks of one. `load_supernet`: gives it by name;
  `weights_files`: the files it reads.
- `TimmSupernet`: a timm backbone. `OnceForAllSupernet`: the published supernets, over the elastic
  network `OnceForAllMobileNetV3`; `ElasticSupernet`: timm's inverted-residual networks made
  elastic, over `ElasticTimmNetwork`; `published_space`, `published_cost`: of the published method;
  `describe_stages`, `stages_cost`: one of its architectures in words, and its cost.
- `Subnet`: the static network cut out of a supernet.
- `Weights`, `read_weights`: backbone weights with what is needed to use them;
  `read_safetensors`: any file of tensors.
"""

from __future__ import annotations

from autopatch.supernet.architecture import Architecture, Level
from autopatch.supernet.elastic import OnceForAllMobileNetV3, SubnetSetting
from autopatch.supernet.elastic_supernet import ElasticSupernet
from autopatch.supernet.elastic_timm import ElasticSetting, ElasticTimmNetwork
from autopatch.supernet.load import load_supernet, weights_files
from autopatch.supernet.once_for_all import (
    OFA_MBV3,
    OnceForAllSupernet,
    describe_stages,
    published_space,
    stages_cost,
)
from autopatch.supernet.published_flops import PublishedCost, published_cost
from autopatch.supernet.space import Gene, SearchSpace
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.supernet import Supernet
from autopatch.supernet.timm_supernet import TimmSupernet
from autopatch.supernet.weights import Weights, read_safetensors, read_weights

__all__ = [
    "OFA_MBV3",
    "Architecture",
    "ElasticSetting",
    "ElasticSupernet",
    "ElasticTimmNetwork",
    "Gene",
    "Level",
    "OnceForAllMobileNetV3",
    "OnceForAllSupernet",
    "PublishedCost",
    "SearchSpace",
    "Subnet",
    "SubnetSetting",
    "Supernet",
    "TimmSupernet",
    "Weights",
    "describe_stages",
    "load_supernet",
    "published_cost",
    "published_space",
    "read_safetensors",
    "read_weights",
    "stages_cost",
    "weights_files",
]
