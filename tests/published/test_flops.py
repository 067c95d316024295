"""The published FLOPs; `published_flops.csv` holds those of 80 subnets of the published code."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autopatch.published.flops import PublishedCost, published_cost
from autopatch.published.network import LARGEST, OnceForAllSetting, StaticNetwork
from autopatch.published.once_for_all import once_for_all_setting
from autopatch.published.space import published_space

HERE = Path(__file__).parent
COMPONENTS = ("conv_macs", "transform_macs", "bias_flops", "bn_elements", "activation_elements")


def rows() -> list[dict[str, str]]:
    with (HERE / "published_flops.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def setting_of(
    kernels: Sequence[int], ratios: Sequence[int], blocks: Sequence[int | None]
) -> OnceForAllSetting:
    """A choice of stages: the first two blocks and those up to the one that is extracted."""
    depths = [2 if b is None else max(2, b - 4 * stage) for stage, b in enumerate(blocks)]
    return OnceForAllSetting(
        tuple(kernel for kernel in kernels for _ in range(4)),
        tuple(ratio for ratio in ratios for _ in range(4)),
        tuple(depths),
        tuple(block for block in blocks if block is not None),
    )


def test_every_count_of_the_published_code() -> None:
    wrong = []
    for row in rows():
        stages: dict[str, list[int | None]] = {
            key: [int(text) if (text := row[f"stage_{s}_{key}"]) else None for s in range(5)]
            for key in ("kernel_size", "expand_ratio", "block")
        }
        setting = setting_of(stages["kernel_size"], stages["expand_ratio"], stages["block"])
        cost = published_cost(float(row["width"]), setting, int(row["image_size"]))
        wanted = {name: int(row[name]) for name in (*COMPONENTS, "flops")}
        found = {name: getattr(cost, name) for name in wanted}
        assert {type(value) for value in found.values()} == {int}
        assert cost.macs == wanted["conv_macs"] + wanted["transform_macs"]
        if found != wanted:
            wrong.append((row, found))
    assert len(rows()) == 80
    assert not wrong


def test_the_counts_are_those_of_the_published_code() -> None:
    path = HERE.parents[2] / "shared" / "fixtures" / "flops.json"
    if not path.is_file():
        pytest.skip(f"no published values at {path}")
    wanted = json.loads(path.read_text())["rows"]
    for row, like in zip(rows(), wanted, strict=True):
        assert (row["width"], int(row["image_size"])) == (like["width"], like["img_size"])
        for s, stage in enumerate(like["stages"]):
            found = [row[f"stage_{s}_{key}"] for key in ("kernel_size", "expand_ratio", "block")]
            assert found == ["" if v is None else str(v) for v in stage.values()]
        for name in (*COMPONENTS, "flops"):
            assert int(row[name]) == like[name]
        assert like["deepspeed_macs"] == like["conv_macs"] + like["transform_macs"]


def test_the_sum() -> None:
    cost = PublishedCost(
        conv_macs=1, transform_macs=10, bias_flops=100, bn_elements=1000, activation_elements=10000
    )
    assert cost.macs == 11
    assert cost.flops == 22 + 100 + 2000 + 10000


@pytest.mark.parametrize(
    ("width", "kernels", "ratios", "blocks", "flops"),
    [
        ("1.2", [5, 3, 5, 7, 5], [4, 4, 4, 4, 6], [1, 8, 9, 14, 17], 580_919_488),
        ("1.0", [7, 5, 7, 7, 7], [3, 4, 3, 6, 3], [2, 7, 12, None, 18], 424_822_592),
        ("1.2", [7, 5, 3, 5, 7], [4, 6, 3, 6, 4], [4, 5, 12, 16, 20], 1_133_103_264),
        ("1.0", [3, 3, 7, 5, 3], [6, 3, 4, 3, 4], [3, None, None, 13, 17], 358_118_784),
    ],
)
def test_points_of_the_published_space(
    width: str, kernels: list[int], ratios: list[int], blocks: list[int | None], flops: int
) -> None:
    parameters: dict[str, int | str | None] = {"supernet_name": f"ofa_mbv3_d234_e346_k357_w{width}"}
    for s in range(5):
        parameters[f"stage_{s}_kernel_size"] = kernels[s]
        parameters[f"stage_{s}_expand_ratio"] = ratios[s]
        parameters[f"stage_{s}_block"] = blocks[s]
        parameters[f"stage_{s}_patch_size"] = 1 + s
    space = published_space()
    setting = once_for_all_setting(space.decode(space.genome(parameters)).backbone)
    assert published_cost(float(width), setting, 224).flops == flops


@pytest.mark.parametrize(
    ("width", "setting", "image_size"),
    [
        (1.0, LARGEST, 33),
        (1.2, setting_of([3, 5, 7, 3, 5], [6, 3, 4, 4, 6], [None, 7, None, None, 20]), 64),
        (1.2, setting_of([7, 3, 3, 3, 3], [4, 3, 3, 3, 3], [1, None, None, None, None]), 97),
        (1.0, setting_of([5, 5, 3, 7, 3], [3, 6, 6, 3, 3], [4, None, 9, 16, None]), 225),
    ],
)
def test_convolutions_cost_what_torch_counts(
    width: float, setting: OnceForAllSetting, image_size: int
) -> None:
    with torch.device("meta"):
        network, image = StaticNetwork(width, setting), torch.empty(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image)
    assert 2 * published_cost(width, setting, image_size).conv_macs == counter.get_total_flops()


def test_the_matrices_cost_the_same_whatever_the_image() -> None:
    setting = setting_of([3, 5, 7, 7, 7], [6, 4, 3, 3, 3], [2, 6, 9, None, None])
    small, large = (published_cost(1.0, setting, size) for size in (32, 224))
    # Blocks 1 and 2 of 6 x 16 and 6 x 24 channels have both, 5 and 6 of 4 x 24 and 4 x 40 one.
    assert small.transform_macs == 240 * (25**2 + 9**2) + 256 * 25**2
    assert large.transform_macs == small.transform_macs
    assert large.bias_flops == small.bias_flops
    assert large.bn_elements == 49 * small.bn_elements
