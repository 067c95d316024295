"""The data sets of `../shared/data` as a fixed backbone sees them, for benchmarks of quality."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from autopatch.data import Cache, MVTecAD, Sample, load_masks, make_split
from autopatch.detector import Architecture, GoodMaps, Head, Input, score_maps
from autopatch.search.feature_maps import FeatureMaps
from autopatch.supernet import Backbone, load_supernet
from features import SHARED

SETS = ("magnetic_tile", "mvtec_bottle", "mvtec_screw", "mvtec_transistor")
SPACE = "timm:mobilenetv2_100"
SETTING = f"{SPACE}, 224 px, strides 4 and 8 (transistor: and 16), patch size 3"
RESERVE = 4
_LEVELS = {"mvtec_transistor": (1, 2, 3)}


class Scene:
    """A data set: its split and its feature maps at 224 px.

    Attributes:
        split: Roles of the images; all images of the reserve are shots.
        head: Patch size 3 for every level, all patches.
        good: Feature maps of the fit images.
    """

    def __init__(self, name: str, seed: int) -> None:
        root = SHARED / "data" / name
        self.split = make_split(MVTecAD.scan(root), shots=RESERVE, reserve=RESERVE, seed=seed)
        supernet = load_supernet(SPACE, str(SHARED / "weights" / "mobilenetv2_100.safetensors"))
        levels = _LEVELS.get(name, (1, 2))
        self.head = Head((3,) * len(levels))
        self._samples = (*self.split.test, *self.split.validation, *self.split.holdout)
        cache = FeatureMaps(supernet, fit=self.split.fit, scored=self._samples, cache=Cache(0))
        maps = cache.get(Architecture(Input(224), Backbone(SPACE, levels), self.head))
        fit = len(self.split.fit)
        self.good = GoodMaps.of([m[:fit] for m in maps])
        self._maps = [m[fit:] for m in maps]
        self._masks = load_masks(self._samples)

    def maps(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """Feature maps of images of the split, one tensor per level."""
        places = torch.tensor([self._samples.index(sample) for sample in samples])
        return [m[places] for m in self._maps]

    def metrics(self, anomaly_maps: torch.Tensor, samples: Sequence[Sample]) -> dict[str, float]:
        """Metrics of anomaly maps of images of the split."""
        places = torch.tensor([self._samples.index(sample) for sample in samples])
        types = [sample.type for sample in samples]
        return dict(score_maps(anomaly_maps, self._masks[places], types))


def mean(values: Sequence[float]) -> str:
    """In percent."""
    return f"{100 * statistics.mean(values):.1f}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent; the value alone if it is the only one."""
    if len(values) == 1:
        return mean(values)
    return f"{mean(values)} ± {100 * statistics.stdev(values):.1f}"
