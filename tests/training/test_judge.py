"""Judging subnets, on drawn textures and random weights."""

import json
import sys
import tarfile

import distill
import judge
import pytest
import show
import torch
from PIL import Image
from safetensors.torch import save_file

from autopatch.data import draw_textures
from autopatch.supernet import ElasticTimmNetwork

MODEL = "tf_mobilenetv3_small_075"


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    network = ElasticTimmNetwork(MODEL, {}, seed=1)
    distill.write(network, folder / "supernet.safetensors", mean=(0.5,) * 3, std=(0.5,) * 3)
    metadata = {"timm_model": MODEL, "timm_kwargs": "{}", "mean": "[0.5, 0.5, 0.5]"}
    teacher = {name: value.contiguous() for name, value in network.largest.state_dict().items()}
    save_file(teacher, folder / "teacher.safetensors", metadata | {"std": metadata["mean"]})
    draw_textures(folder / "data", seed=1, image_size=64, train=6, test_good=2, per_type=5)
    colors = {"red": (200, 30, 30), "green": (30, 200, 30)}
    with tarfile.open(folder / "natural.tar", "w") as archive:
        for name, color in colors.items():
            for number in range(3):
                shade = tuple(value + 9 * number for value in color)
                file = folder / f"{name}{number}.png"
                Image.new("RGB", (64, 64), shade).save(file)
                archive.add(file, f"{name}/{number}.png")
    arguments = {
        "supernet": folder / "supernet.safetensors",
        "teacher": folder / "teacher.safetensors",
        "images": folder / "natural.tar",
        "data": folder / "data",
        "natural": folder / "natural.tar",
        "out": folder / "judged.jsonl",
        "subnets": 2,
        "draws": 1,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["judge.py", *words])
        patch.setattr(judge, "FITTED_ON", 4)
        patch.setattr(judge, "SIZE", 112)
        judge.main()
    return folder / "judged.jsonl"


def test_every_network_is_judged(judged):
    rows = [json.loads(line) for line in judged.read_text().splitlines()]
    assert [row["kind"] for row in rows] == [
        "teacher",
        *["trained"] * 4,
        *["before training"] * 3,
        "random weights",
    ]
    teacher, largest, smallest = rows[:3]
    # The file holds the teacher in float16.
    for levels in judge.LEVEL_SETS:
        metrics, expected = (row["detectors"]["data"][levels] for row in (largest, teacher))
        assert metrics["rwAP"] == pytest.approx(expected["rwAP"], abs=0.01)
        assert largest["macs"][levels] == teacher["macs"][levels] > smallest["macs"][levels] > 0
    assert teacher["natural_accuracy"] == 1  # two colors


def test_a_class_is_that_of_the_images_own_folder(tmp_path):
    for name, color in ("red", (200, 30, 30)), ("green", (30, 200, 30)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text(name)
        for number in range(2):
            Image.new("RGB", (64, 64), color).save(tmp_path / name / f"{number}.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "green" / "0small.png")
    archive = tmp_path / "natural.tar"
    with tarfile.open(archive, "w") as file:
        for path in sorted(tmp_path.glob("*/*")):
            file.add(path, path.relative_to(tmp_path))
    assert judge.NaturalImages(archive).accuracy(lambda images: [images.float()]) == 1


def test_subnets_differ():
    network = ElasticTimmNetwork(MODEL, {})
    found = judge.random_settings(network, 20, 0)
    assert len(set(found)) == 20
    assert found == judge.random_settings(network, 20, 0)
    for setting in found:
        assert network.get_active_subnet(setting)(torch.zeros(1, 3, 64, 64))


def test_the_table_and_the_picture(judged, monkeypatch, capsys):
    picture = judged.with_name("judged.png")
    monkeypatch.setattr(sys, "argv", ["show.py", str(judged), "--figure", str(picture)])
    show.main()
    lines = capsys.readouterr().out.splitlines()
    (teacher, *_) = (line for line in lines if line.startswith("| teacher |"))
    assert "| 100 % |" in teacher
    for name in ("trained: largest", "trained: worst", "trained: median of 3", "random weights"):
        assert any(line.startswith(f"| {name} |") for line in lines), name
    with Image.open(picture) as image:
        assert min(image.size) > 300


def test_ranks_of_two_seeds():
    def row(ratio, deepest, rwap):
        return {
            "kind": "trained",
            "expand_ratios": [ratio, 3, 3, deepest],
            "depths": [2, 3, 4, 3],
            "detectors": {"data": {"4+8": {"rwAP": [rwap, rwap]}}},
        }

    first = [row(3, 3, 0.1), row(4, 3, 0.2), row(6, 3, 0.3), row(6, 4, 0.3)]
    second = [row(6, 3, 0.5), row(4, 3, 0.2), row(3, 3, 0.4), row(6, 4, 0.5)]
    second.append({"kind": "teacher"})
    tau, count = show.rank_correlation(first, second, "data", "4+8")
    assert count == 3  # the last two are one, up to stride 8
    assert tau == pytest.approx(1 / 3)  # two pairs in order, one not
