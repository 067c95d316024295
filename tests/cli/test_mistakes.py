"""Every mistake of a user: one line that names what is wrong, exit code 2, nothing left behind."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from autopatch import _C

SPACE = "timm:test_efficientnet"


@pytest.fixture
def copy(textures, tmp_path):
    return shutil.copytree(textures, tmp_path / "copy")


def assert_refused(result, *fragments):
    code, _, err = result
    assert code == 2, err
    assert err.count("\n") == 1
    assert err.startswith("autopatch: ")
    for fragment in fragments:
        assert str(fragment) in err


@pytest.fixture
def refused_search(autopatch, tmp_path):
    """Searches a folder and expects an error before anything is written."""

    def run(data, *fragments, **options):
        out = tmp_path / "run"
        before = sorted(tmp_path.iterdir())
        settings = {"space": SPACE, "weights": "random", "shots": 1, "reserve": 2} | options
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        assert_refused(autopatch("search", data, "--out", out, *arguments), *fragments)
        assert sorted(tmp_path.iterdir()) == before

    return run


def test_missing_folder(refused_search, tmp_path):
    refused_search(tmp_path / "nowhere", tmp_path / "nowhere")


def test_empty_folder(refused_search, tmp_path):
    (tmp_path / "empty").mkdir()
    refused_search(tmp_path / "empty", tmp_path / "empty")


def test_no_train_good(refused_search, copy):
    shutil.rmtree(copy / "train")
    refused_search(copy, "train/good")


def test_mask_missing(refused_search, copy):
    mask = next((copy / "ground_truth" / "hole").iterdir())
    mask.unlink()
    refused_search(copy, "hole", mask.name)


def test_mask_of_another_size(refused_search, copy):
    mask = next((copy / "ground_truth" / "hole").iterdir())
    with Image.open(mask) as picture:
        small = picture.resize((20, 30), Image.Resampling.NEAREST)
    small.save(mask)
    refused_search(copy, mask.name, "20", "64")


def test_mask_not_binary(refused_search, copy):
    mask = next((copy / "ground_truth" / "stain").iterdir())
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(mask)
    refused_search(copy, mask.name)


def test_no_anomalous_pixel(refused_search, copy):
    mask = next((copy / "ground_truth" / "stain").iterdir())
    Image.new("L", (64, 64)).save(mask)
    refused_search(copy, mask.name)


def test_truncated_image(refused_search, copy):
    image = next((copy / "train" / "good").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    refused_search(copy, image.name)


def test_fewer_anomalies_than_shots(refused_search, textures):
    refused_search(textures, "7", shots=7, reserve=7)


def test_unknown_timm_name(refused_search, textures):
    refused_search(textures, "resnet19", space="timm:resnet19")


def test_unknown_space(refused_search, textures):
    refused_search(textures, "nas:thing", space="nas:thing")


def test_weights_missing(refused_search, textures, tmp_path):
    refused_search(textures, "none.safetensors", weights=tmp_path / "none.safetensors")


def test_weights_that_do_not_fit(refused_search, textures, tmp_path):
    metadata = {
        "timm_model": "test_efficientnet",
        "timm_kwargs": "{}",
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.5, 0.5, 0.5]",
    }
    file = tmp_path / "odd.safetensors"
    save_file({"conv_stem.weight": torch.zeros(3, 3)}, file, metadata=metadata)
    refused_search(textures, "odd.safetensors", weights=file)


def test_weights_of_another_model(refused_search, textures, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, file, metadata={"timm_model": "resnet18"})
    refused_search(textures, "resnet18", weights=file)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rule", "luck"),
        ("kinds", "rust"),
        ("per-kind", 0),
        ("evaluations", 0),
        ("population", 1),
        ("sampler", "grid"),
        ("cache-gib", -1),
    ],
)
def test_numbers_and_names_are_checked_before_images_are_read(
    refused_search, textures, monkeypatch, option, value
):
    def read(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("autopatch.data.checks.decode", read)
    named = option if option in ("sampler", "rule") else f"--{option}"
    refused_search(textures, named, **{option: value})


@pytest.mark.parametrize(
    ("device", "built", "gpus", "reason"),
    [
        ("gpu", True, 1, "expected 'cpu', 'cuda' or"),
        ("cuda:one", True, 1, "expected 'cpu', 'cuda' or"),
        ("cpu:1", True, 1, "expected 'cpu', 'cuda' or"),
        ("cuda:", True, 1, "expected 'cpu', 'cuda' or"),
        ("cuda:00", True, 1, "expected 'cpu', 'cuda' or"),
        ("cuda", False, 1, "built without CUDA"),
        ("cuda", True, 0, "no usable GPU"),
        ("cuda:2", True, 2, "the last GPU is cuda:1"),
    ],
)
def test_device_that_cannot_be_used(
    refused_search, textures, monkeypatch, device, built, gpus, reason
):
    monkeypatch.setattr(_C, "cuda_built", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    refused_search(textures, f"--device is '{device}'", reason, device=device)


def test_a_gpu_that_the_build_has_no_kernels_for(refused_search, textures, monkeypatch):
    reason = "no kernel image is available for execution on the device"

    def fail(*_, **__):
        raise RuntimeError(f"aggregate_patches: {reason}")

    monkeypatch.setattr(_C, "cuda_built", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "zeros", fail)
    refused_search(textures, "--device is 'cuda'", reason, "reinstall autopatch", device="cuda")


def test_choices_that_are_no_numbers(refused_search, textures):
    refused_search(textures, "--image-sizes", **{"image-sizes": "small"})


def test_run_folder_exists(autopatch, search_arguments, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "precious.txt").write_text("kept")
    assert_refused(autopatch(*search_arguments), run, "--resume")
    assert [p.name for p in run.iterdir()] == ["precious.txt"]


def test_resume_without_a_search(autopatch, search_arguments, tmp_path):
    assert_refused(autopatch(*search_arguments, "--resume"), tmp_path / "run")


@pytest.mark.parametrize("command", ["fit", "evaluate", "report"])
def test_not_a_run_folder(autopatch, command, tmp_path):
    assert_refused(autopatch(command, tmp_path), tmp_path)


def test_foreign_detector_file(autopatch, textures, tmp_path):
    file = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    result = autopatch("predict", file, textures / "test", "--out", tmp_path / "results")
    assert_refused(result, file)
    assert not (tmp_path / "results").exists()


def test_detector_file_that_is_none(autopatch, textures, tmp_path):
    file = tmp_path / "text.safetensors"
    file.write_text("hello")
    assert_refused(autopatch("predict", file, textures / "test", "--out", tmp_path / "r"), file)


def test_check_data_names_every_problem(autopatch, copy):
    masks = sorted((copy / "ground_truth" / "stain").iterdir())
    Image.new("L", (64, 64)).save(masks[0])
    Image.new("L", (8, 8), 255).save(masks[1])
    code, out, err = autopatch("check-data", copy)
    assert code == 2
    assert masks[0].name in out
    assert masks[1].name in out
    assert "2 problems" in err
