"""Distillation of a network into its subnets, on a few drawn images."""

import json
import tarfile
from pathlib import Path

import distill
import numpy as np
import pytest
import timm
import torch
from images import CROP, crops, read_images
from PIL import Image
from safetensors.torch import load_file, save_file

from autopatch.errors import InputError
from autopatch.supernet import ElasticTimmNetwork, load_supernet
from autopatch.supernet.timm_features import features_model
from autopatch.supernet.weights import load_into, read_weights

MODEL, KWARGS = "tf_mobilenetv3_small_075", {}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    model = features_model(MODEL, KWARGS, out_indices=(1, 2, 3, 4), seed=3)
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    values = {"mean": [0.5, 0.4, 0.5], "std": [0.2, 0.25, 0.3], "timm_kwargs": KWARGS}
    metadata = {"timm_model": MODEL, **{name: json.dumps(v) for name, v in values.items()}}
    save_file(model.state_dict(), file, metadata=metadata)
    return file


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    folder = tmp_path_factory.mktemp("natural")
    generator = torch.Generator().manual_seed(0)
    for number, size in enumerate((64, 64, 128, 130)):
        coarse = torch.rand(1, 3, 9, 9, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
        pixels = (255 * pixels[0].clamp(0, 1)).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run(teacher, natural, out, steps, *more):
    arguments = ["--teacher", teacher, "--images", natural, "--out", out, "--steps", steps]
    distill.main([*map(str, arguments), "--batch", "2", *more])
    return load_file(out / "supernet.safetensors")


@torch.no_grad()
def error_of_smallest(state, natural):
    """Error on the same crops, relative to the largest network before training."""
    network = ElasticTimmNetwork(MODEL, KWARGS, seed=3)
    images = crops(read_images([natural]), 16, 64, torch.Generator().manual_seed(9)) * 4 - 2
    expected = network(images, network.largest_setting)  # the seed is that of the teacher
    network.load_state_dict({name: value.float() for name, value in state.items()})
    smallest = distill.sandwich(network.sections, 0)[1]
    return distill.map_error(network(images, smallest), expected)


def test_crops_are_the_same_for_a_seed(natural):
    images = read_images([natural])
    assert sorted(tuple(group.shape) for group in images) == [
        (1, 3, 128, 128),
        (1, 3, 130, 130),
        (2, 3, 64, 64),
    ]
    first, same, other = (
        crops(images, 5, CROP, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (5, 3, CROP, CROP)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0 <= first.min() < first.max() <= 1


def test_photographs_are_shown_at_the_scale_of_a_search(tmp_path):
    photograph = Image.effect_noise((1200, 900), 60)
    photograph.save(tmp_path / "photograph.png")
    (group,) = read_images([tmp_path])
    expected = np.asarray(photograph.resize((224, 224), Image.Resampling.BILINEAR))
    assert group.shape == (1, 3, 224, 224)
    assert (group[0].numpy() == expected).all()
    photograph.crop((0, 0, 288, 300)).save(tmp_path / "photograph.png")
    assert read_images([tmp_path])[0].shape == (1, 3, 300, 288)


def test_images_are_read_as_the_package_reads_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.linspace(0, 4095, 70 * 90).astype(np.uint16).reshape(70, 90)
    Image.fromarray(ramp).save(tmp_path / "deep.png", exif=exif)
    (group,) = read_images([tmp_path])
    expected = np.rot90(np.rint(ramp / 4095 * 255), -1)
    assert (group[0].numpy() == expected).all()
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(tmp_path / "deep.png", "some/deep.png")
    assert torch.equal(read_images([tmp_path / "images.tar"])[0], group)


def test_some_crops_are_grey(natural):
    made = crops(read_images([natural]), 60, 32, torch.Generator().manual_seed(0))
    grey = (made - made[:, :1]).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 12 < int(grey.sum()) < 36


def test_no_images(tmp_path):
    with pytest.raises(InputError, match="no image in this folder"):
        read_images([tmp_path])
    Image.new("RGB", (80, 63)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="no images of 64 px"):
        read_images([tmp_path])
    with pytest.raises(InputError, match="no such file or folder"):
        read_images([tmp_path / "absent"])


def test_files_that_are_no_images_to_train_on(tmp_path):
    photograph = Image.effect_noise((70, 70), 60)
    folder, bad, tar = tmp_path / "folder", tmp_path / "bad.png", tmp_path / "images.tar"
    folder.mkdir()
    photograph.save(folder / "a.png")
    (folder / "._a.png").write_bytes(b"of macOS")
    bad.write_bytes((folder / "a.png").read_bytes()[:2000])
    pages = tmp_path / "pages.tif"
    photograph.save(pages, save_all=True, append_images=[photograph])
    with tarfile.open(tar, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"class/{file.name}")
        archive.add(__file__, "class/notes.txt")
    for path in folder, tar:
        assert [group.shape for group in read_images([path])] == [(1, 3, 70, 70)]
    for file, message in (bad, "unreadable or truncated"), (pages, "2 pictures in one file"):
        with tarfile.open(tar, "w") as archive:
            archive.add(file, f"class/{file.name}")
        with pytest.raises(InputError, match=rf"^{tar}:class/{file.name}: .*{message}"):
            read_images([tar])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar.read_bytes()[:1000])
    for path in folder / "a.png", cut:
        with pytest.raises(InputError, match=rf"^{path}: cannot be read as a tar file"):
            read_images([path])


def test_before_training_the_largest_is_the_teacher(natural, tmp_path, monkeypatch):
    """With real weights. Both the file and the teacher's file hold float16."""
    file = Path(__file__).parents[3] / "shared" / "weights" / "mobilenetv2_100.safetensors"
    if not file.is_file():
        pytest.skip("no weights of mobilenetv2_100 in ../shared")
    monkeypatch.setattr(distill, "FITTED_ON", 16)
    monkeypatch.setattr(distill, "CROP", 64)
    run(file, natural, tmp_path, 0)
    weights = read_weights(file)
    teacher = timm.create_model(
        weights.timm_model, features_only=True, out_indices=(1, 2, 3, 4), **weights.timm_kwargs
    ).eval()
    load_into(teacher, weights)
    supernet = load_supernet(
        f"elastic:{weights.timm_model}", str(tmp_path / "supernet.safetensors")
    )
    largest = supernet.network.get_active_subnet(supernet.network.largest_setting)
    images = crops(read_images([natural]), 4, CROP, torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        for found, expected in zip(largest(images), teacher(images), strict=True):
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_step_runs_the_largest_the_smallest_and_random_ones():
    network = ElasticTimmNetwork(MODEL, KWARGS)
    first, second = (distill.sandwich(network.sections, seed) for seed in (1, 2))
    assert first[0] == second[0] == network.largest_setting
    assert first[1] == second[1]
    assert first[1].expand_ratios == (3,) * 4
    assert first[1].depths == tuple(section.depths[0] for section in network.sections)
    assert first[2:] != second[2:]
    assert first == distill.sandwich(network.sections, 1)


def test_training_lowers_the_error_and_goes_on_where_it_was(
    teacher, natural, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(distill, "CROP", 64)
    # Fitted to such images, there would be nothing left to learn in a few steps.
    monkeypatch.setattr(distill, "start_subnets", lambda network, _: network.start_from_largest())
    whole = run(teacher, natural, tmp_path / "whole", 5)
    log = torch.load(tmp_path / "whole" / "checkpoint.pt")["log"]
    untrained = run(teacher, natural, tmp_path / "untrained", 0)
    assert error_of_smallest(whole, natural) < 0.95 * error_of_smallest(untrained, natural)

    monkeypatch.setattr(distill, "_SAVED_EVERY", 0.0)
    steps = []
    sandwich = distill.sandwich

    def interrupted(sections, seed):
        steps.append(seed)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return sandwich(sections, seed)

    monkeypatch.setattr(distill, "sandwich", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(teacher, natural, tmp_path / "parts", 5)
    capsys.readouterr()
    parts = run(teacher, natural, tmp_path / "parts", 5)
    assert "continues from step 2" in capsys.readouterr().out
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(parts[name], value), name
    assert max(v.element_size() for v in whole.values() if v.is_floating_point()) == 2

    supernet = load_supernet(f"elastic:{MODEL}", str(tmp_path / "whole" / "supernet.safetensors"))
    assert supernet.mean == (0.5, 0.4, 0.5)
    other = run(teacher, natural, tmp_path / "other", 1, "--seed", "1")
    assert any(not torch.equal(other[name], value) for name, value in whole.items())
    assert (tmp_path / "whole" / "curve.png").is_file()
    lines = (tmp_path / "whole" / "errors.csv").read_text().splitlines()
    assert lines[0] == "step,largest,smallest,random 1,random 2"
    assert [float(value) for value in lines[5].split(",")] == pytest.approx([4, *log[4]], abs=1e-4)

    with pytest.raises(SystemExit):
        run(teacher, natural, tmp_path / "whole", 5, "--seed", "1")
    assert "checkpoint.pt belongs to another run" in capsys.readouterr().err

    start = tmp_path / "whole" / "supernet.safetensors"
    arguments = ["--start", start, "--images", natural, "--out", tmp_path / "further"]
    distill.main([*map(str, arguments), "--steps", "1", "--batch", "2", "--learning-rate", "0"])
    same = load_file(tmp_path / "further" / "supernet.safetensors")
    assert all(torch.equal(same[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give --teacher, --start or both"),
        (["--teacher", "absent.safetensors"], "absent.safetensors: no such file"),
        (["--start", "TEACHER"], "teacher.safetensors: lacks largest."),
        (["--start", "OTHER", "--teacher", "TEACHER"], "mean is (0.5, 0.4, 0.5), expected (0.0"),
        (["--teacher", "TEACHER", "--device", "card"], "--device is 'card': "),
    ],
)
def test_mistakes(teacher, natural, tmp_path, capsys, arguments, reason):
    files = {"TEACHER": str(teacher), "OTHER": str(tmp_path / "other.safetensors")}
    distill.write(
        ElasticTimmNetwork(MODEL, KWARGS), Path(files["OTHER"]), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    arguments = [files.get(argument, argument) for argument in arguments]
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        distill.main([*arguments, "--images", str(natural), "--out", str(out)])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()
