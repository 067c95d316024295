"""Measures the quality of detectors made from the subnets of an elastic network.

    python training/judge.py --supernet RUN/supernet.safetensors \
        --teacher mobilenetv2_100.safetensors --images imagenet_1000_256px.tar \
        --data magnetic_tile dagm_class1 --natural tiny_imagenet_3.tar --out RUN/judged.jsonl

It judges the teacher; the largest, the smallest and random subnets after training; the same subnets
before training, except the largest; and the whole network with random weights. For each it measures
rwAP, AP and image AUROC on the test set of each data set, for several random splits, and the
nearest-neighbor accuracy on natural images that were not used in training. It writes one line of
JSON per network.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fit import FITTED_ON, start_subnets
from images import CROP, crops, read_images, read_pictures
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autopatch.data import MVTecAD, Reading, load_images, load_masks, make_split
from autopatch.detector import FittedHead, Head, PatchAggregator, score_maps
from autopatch.errors import InputError
from autopatch.kernels import nearest_neighbors
from autopatch.supernet.elastic_network import RATIOS, ElasticSetting, ElasticTimmNetwork
from autopatch.supernet.weights import Weights, load_into, read_weights

SIZE = 224
BANK = 4000  # random patches
LEVEL_SETS = {"4+8": (0, 1), "8+16": (1, 2)}  # strides, and their positions among the levels
KINDS = ("teacher", "trained", "before training", "random weights")
_AT_A_TIME = 16
_METRICS = ("rwAP", "AP", "image_AUROC")


class Detectors:
    """A data set with its images in memory, and several random splits of it."""

    def __init__(self, data: Path, draws: int) -> None:
        self.name = data.name
        dataset = MVTecAD.scan(data)
        self._splits = [make_split(dataset, shots=1, reserve=4, seed=seed) for seed in range(draws)]
        samples = {
            sample.image: sample for split in self._splits for sample in (*split.fit, *split.test)
        }
        self._place = {image: place for place, image in enumerate(samples)}
        self._pixels = load_images(list(samples), SIZE)
        # The figures in docs/models.md were measured with this rule.
        self._masks = load_masks(list(samples.values()), SIZE, Reading(mask_resize="any"))

    def judge(self, maps_of: Callable[[torch.Tensor], list[torch.Tensor]]) -> dict[str, Any]:
        """Metrics by levels and name, one value per split."""
        maps = maps_of(self._pixels)
        found: dict[str, Any] = {}
        for levels, places in LEVEL_SETS.items():
            chosen = [maps[place] for place in places]
            found[levels] = {name: [] for name in _METRICS}
            for seed, split in enumerate(self._splits):
                fit, test = (
                    torch.tensor([self._place[sample.image] for sample in part])
                    for part in (split.fit, split.test)
                )
                aggregator = PatchAggregator((3, 3))
                patches = aggregator([m[fit] for m in chosen])
                generator = torch.Generator().manual_seed(seed)
                bank = patches[torch.randperm(len(patches), generator=generator)[:BANK]]
                head = FittedHead.of(Head((3, 3)), aggregator, bank, radius=0.0, size=SIZE)
                anomaly_maps = head.anomaly_maps([m[test] for m in chosen])
                metrics = score_maps(
                    anomaly_maps, self._masks[test], [sample.type for sample in split.test]
                )
                for name in _METRICS:
                    found[levels][name].append(metrics[name])
        return found


class NaturalImages:
    """Images that were not used in training; their classes may have been."""

    def __init__(self, archive: Path) -> None:
        pictures = read_pictures([archive])
        sizes = {pixels.shape[:2] for _, pixels in pictures}
        if len(sizes) > 1:
            raise InputError(f"{archive}: images of {len(sizes)} sizes, expected one size")
        stacked = np.stack([pixels for _, pixels in pictures])
        self._pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        self._classes = class_numbers([path for path, _ in pictures])

    def accuracy(self, maps_of: Callable[[torch.Tensor], list[torch.Tensor]]) -> float:
        """Share of images whose nearest neighbor among the other images has the same class.

        Images are compared by the cosine similarity of their deepest feature maps, averaged over
        positions.
        """
        features = maps_of(self._pixels)[-1].mean(dim=(2, 3))
        features = nn.functional.normalize(features - features.mean(dim=0))
        _, found = nearest_neighbors(features, features, 2)
        itself = torch.arange(len(features))
        nearest = torch.where(found[:, 0] == itself, found[:, 1], found[:, 0])
        classes = torch.tensor(self._classes)
        return float((classes[nearest] == classes).float().mean())


def class_numbers(paths: Sequence[Path]) -> list[int]:
    """Class number of each image; each folder is a class."""
    folders = [path.parent.name for path in paths]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(folders))}
    return [numbers[name] for name in folders]


def random_settings(network: ElasticTimmNetwork, count: int, seed: int) -> list[ElasticSetting]:
    """Settings of distinct random subnets, with all levels."""
    generator = torch.Generator().manual_seed(seed)

    def choose(values: Sequence[int]) -> int:
        return values[int(torch.randint(len(values), (), generator=generator))]

    found: dict[ElasticSetting, None] = {}
    while len(found) < count:
        ratios = tuple(choose(RATIOS) for _ in network.sections)
        depths = tuple(choose(section.depths) for section in network.sections)
        found[ElasticSetting(ratios, depths, network.largest_setting.levels)] = None
    return list(found)


def macs(network: ElasticTimmNetwork, setting: ElasticSetting, levels: str) -> int:
    """Multiply-adds per image of 224 px, up to the deepest of the levels."""
    last = LEVEL_SETS[levels][-1] + 1
    cut = ElasticSetting(
        setting.expand_ratios[:last], setting.depths[:last], setting.levels[:last][-1:]
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.get_active_subnet(cut)(torch.zeros(1, 3, SIZE, SIZE))
    return counter.get_total_flops() // 2


def networks(
    supernet: Path, weights: Weights, pixels: torch.Tensor, subnets: int, kinds: Sequence[str]
) -> Iterator[tuple[str, ElasticTimmNetwork, ElasticSetting]]:
    """The networks to judge: kind, weights and setting of each."""

    def elastic() -> ElasticTimmNetwork:
        assert weights.timm_model is not None
        network = ElasticTimmNetwork(weights.timm_model, weights.timm_kwargs or {})
        return network.to(memory_format=torch.channels_last).requires_grad_(False)

    untrained = elastic()
    load_into(untrained.largest, weights)
    whole = untrained.largest_setting
    smallest = ElasticSetting(
        (RATIOS[-1],) * len(untrained.sections),
        tuple(section.depths[0] for section in untrained.sections),
        whole.levels,
    )
    chosen = [whole, smallest, *random_settings(untrained, subnets, 0)]
    if "teacher" in kinds:
        yield "teacher", untrained, whole
    if "trained" in kinds:
        trained = elastic()
        load_into(trained, read_weights(supernet))
        for setting in chosen:
            yield "trained", trained, setting
    if "before training" in kinds:
        start_subnets(untrained, pixels)
        for setting in chosen[1:]:
            yield "before training", untrained, setting
    if "random weights" in kinds:
        yield "random weights", elastic(), whole


def _maps(
    subnet: nn.Module, mean: torch.Tensor, std: torch.Tensor, images: torch.Tensor
) -> list[torch.Tensor]:
    """Feature maps of images uint8 `[N, 3, H, W]`."""
    parts = []
    with torch.inference_mode():
        for batch in images.split(_AT_A_TIME):
            pixels = batch.contiguous(memory_format=torch.channels_last).float() / 255
            parts.append(subnet((pixels - mean) / std))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="MVTec-AD layout")
    parser.add_argument(
        "--natural", type=Path, required=True, help="tar file or folder of folders of classes"
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="as for distill.py")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--subnets", type=int, default=30)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    try:
        weights = read_weights(options.teacher)
        images = read_images(options.images)
        data_sets = [Detectors(path, options.draws) for path in options.data]
        natural = NaturalImages(options.natural)
    except InputError as error:
        parser.error(str(error))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (weights.mean, weights.std))
    generator = torch.Generator().manual_seed(10**9 - 1)
    pixels = (crops(images, FITTED_ON, CROP, generator) - mean) / std
    with options.out.open("w") as file:
        for kind, network, setting in networks(
            options.supernet, weights, pixels, options.subnets, options.kinds
        ):
            maps_of = partial(_maps, network.get_active_subnet(setting), mean, std)
            row = {
                "kind": kind,
                "expand_ratios": setting.expand_ratios,
                "depths": setting.depths,
                "macs": {levels: macs(network, setting, levels) for levels in LEVEL_SETS},
                "natural_accuracy": natural.accuracy(maps_of),
                "detectors": {data.name: data.judge(maps_of) for data in data_sets},
            }
            print(json.dumps(row), file=file, flush=True)
            shown = {
                f"{name} {levels}": round(100 * sum(m["rwAP"]) / len(m["rwAP"]), 1)
                for name, by_levels in row["detectors"].items()
                for levels, m in by_levels.items()
            }
            print(kind, *setting.expand_ratios, *setting.depths, shown, flush=True)


if __name__ == "__main__":
    main()
