"""Supernets: the backbones that the search cuts its detectors from.

- `Level`, `Architecture`: one feature level of a backbone; one point of a search space.
- `Gene`, `SearchSpace`: a search space as data, an integer genome with names and choices.
- `Weights`, `read_weights`: backbone weights with what is needed to use them.
- `TimmSupernet`, `Subnet`, `load_supernet`: a timm backbone, and the network cut out of it.
"""

from __future__ import annotations

from autopatch.supernet.architecture import Architecture, Level
from autopatch.supernet.space import Gene, SearchSpace
from autopatch.supernet.subnet import Subnet
from autopatch.supernet.timm_supernet import TimmSupernet, load_supernet
from autopatch.supernet.weights import Weights, read_weights

__all__ = [
    "Architecture",
    "Gene",
    "Level",
    "SearchSpace",
    "Subnet",
    "TimmSupernet",
    "Weights",
    "load_supernet",
    "read_weights",
]
