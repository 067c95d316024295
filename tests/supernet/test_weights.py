from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from autopatch.errors import InputError
from autopatch.supernet import (
    Backbone,
    load_supernet,
    read_safetensors,
    read_weights,
    tensors_sha256,
)

WriteWeights = Callable[..., Path]
SPACE = "timm:mobilenetv2_050"
KEY = "blocks.1.0.conv_pw.weight"


def test_metadata_is_read(write_weights: WriteWeights) -> None:
    weights = read_weights(write_weights())
    assert weights.timm_model == "mobilenetv2_050"
    assert weights.timm_kwargs == {"pad_type": "same"}
    assert weights.mean == (0.5, 0.5, 0.5)
    assert weights.std == (0.25, 0.25, 0.25)


def test_the_system_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_safetensors(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_paths_as_text(write_weights: WriteWeights) -> None:
    path = write_weights()
    weights = read_weights(str(path))
    assert weights.path == path
    metadata, state = read_safetensors(str(path))
    assert metadata["timm_model"] == "mobilenetv2_050"
    assert state.keys() == weights.state.keys()


def test_the_hash_of_tensors_is_of_all_that_they_are() -> None:
    tensors = {
        "weight": torch.rand(8, 6, 3, 3),
        "half": torch.rand(5).bfloat16(),
        "count": torch.tensor(3),
        "none": torch.empty(0, 4),
    }
    whole = tensors_sha256(tensors)
    assert re.fullmatch("[0-9a-f]{64}", whole)
    other_layout = tensors["weight"].to(memory_format=torch.channels_last)
    assert tensors_sha256({**dict(reversed(tensors.items())), "weight": other_layout}) == whole
    changed = tensors["weight"].clone()
    changed[-1, -1, -1, -1] += 1e-6
    others: list[dict[str, torch.Tensor]] = [
        {**tensors, "weight": changed},
        {**tensors, "weight": tensors["weight"].view(6, 8, 3, 3)},
        {**tensors, "half": tensors["half"].view(torch.float16)},
        {**tensors, "none": torch.empty(4, 0)},
        {**{k: v for k, v in tensors.items() if k != "count"}, "counts": tensors["count"]},
        {k: v for k, v in tensors.items() if k != "none"},
    ]
    assert len({whole, *map(tensors_sha256, others)}) == 1 + len(others)


def test_weights_are_known_by_their_values_not_by_their_file(
    write_weights: WriteWeights, classifier_state: dict[str, torch.Tensor]
) -> None:
    path = write_weights()
    original = load_supernet(SPACE, str(path)).weights_sha256
    assert re.fullmatch("[0-9a-f]{64}", original)
    copied = path.rename(path.with_name("other.safetensors"))
    assert load_supernet(SPACE, str(copied)).weights_sha256 == original
    changed = classifier_state[KEY] * (1 + 1e-6)
    assert load_supernet(SPACE, str(write_weights({KEY: changed}))).weights_sha256 != original
    without_head = write_weights({"classifier.weight": None, "classifier.bias": None})
    assert load_supernet(SPACE, str(without_head)).weights_sha256 == original


def test_tensors_reach_the_subnet(
    write_weights: WriteWeights, classifier_state: dict[str, torch.Tensor]
) -> None:
    half = {k: v.half() for k, v in classifier_state.items() if v.is_floating_point()}
    supernet = load_supernet(SPACE, str(write_weights(half)))
    assert supernet.mean == (0.5, 0.5, 0.5)
    assert supernet.std == (0.25, 0.25, 0.25)
    assert not supernet.random_features
    state = supernet.get_active_subnet(Backbone(SPACE, (1,))).network.state_dict()
    assert state[KEY].dtype == torch.float32
    assert torch.equal(state[KEY], classifier_state[KEY].half().float())
    # Not in the subnet: what lies after the deepest level.
    assert not any(key.startswith(("blocks.2.", "conv_head")) for key in state)


@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224"])
def test_keys_of_whole_models_fit_their_feature_extractors(model: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model(model).eval()
    path = tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), path)
    supernet = load_supernet(
        f"timm:{model}", str(path), mean=(0, 0, 0), std=(1, 1, 1), timm_kwargs={}
    )
    level = supernet.all_levels(supernet.name)[1].index
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        (ours,) = supernet.get_active_subnet(Backbone(supernet.name, (level,)))(images)
        (timms,) = whole.forward_intermediates(images, indices=[level], intermediates_only=True)
    torch.testing.assert_close(ours, timms, rtol=1e-4, atol=1e-4)


def test_counts_of_training_steps_may_be_absent(
    write_weights: WriteWeights, classifier_state: dict[str, torch.Tensor]
) -> None:
    counts = {k: None for k in classifier_state if k.endswith("num_batches_tracked")}
    assert counts
    load_supernet(SPACE, str(write_weights(counts)))


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (None, r"lacks .*\[48, 8, 1, 1\]"),
        (torch.zeros(48, 9, 1, 1), r"\[48, 9, 1, 1\], expected \[48, 8, 1, 1\]"),
        (torch.zeros(48, 8, 1, 1, dtype=torch.int8), "int8"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    write_weights: WriteWeights, tensor: torch.Tensor | None, found: str
) -> None:
    path = write_weights({KEY: tensor})
    with pytest.raises(InputError, match=found) as caught:
        load_supernet(SPACE, str(path))
    assert KEY in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(write_weights: WriteWeights) -> None:
    with pytest.raises(InputError, match=r"mobilenetv2_050.*timm:mobilenetv2_100"):
        load_supernet("timm:mobilenetv2_100", str(write_weights()))


def test_a_tag_is_not_another_model(write_weights: WriteWeights) -> None:
    path = write_weights(timm_model="mobilenetv2_050.lamb_in1k")
    assert load_supernet(SPACE, str(path)).name == SPACE


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda values: [*np.float32(values)]]
)
def test_mean_and_std_in_any_form(kind: Callable[..., Any]) -> None:
    space = "timm:test_efficientnet"
    supernet = load_supernet(space, "random", mean=kind([0.5, 0.25, 0]), std=kind([1, 0.5, 0.5]))
    assert (supernet.mean, supernet.std) == ((0.5, 0.25, 0), (1, 0.5, 0.5))
    for wrong in (kind([0.5, 0.5]), kind([0.5, 0.5, float("nan")]), ()):
        with pytest.raises(InputError, match=r"`mean` is .*, expected three numbers"):
            load_supernet(space, "random", mean=wrong)


def test_paths_that_cannot_be_looked_up() -> None:
    with pytest.raises(InputError, match="x: cannot be read: File name too long"):
        load_supernet("timm:test_efficientnet", "x" * 300)


@pytest.mark.parametrize(
    ("setting", "given"), [("mean", (0, 0, 0)), ("std", (1, 1, 1)), ("timm_kwargs", {})]
)
def test_settings_are_in_the_file_or_given(
    write_weights: WriteWeights, setting: str, given: Any
) -> None:
    path = str(write_weights(**{setting: None}))
    with pytest.raises(InputError, match=setting):
        load_supernet(SPACE, path)
    load_supernet(SPACE, path, **{setting: given})


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "[0.5, 0.5]"},
        {"mean": "[0.5, 0.5, NaN]"},
        {"mean": "0.5"},
        {"mean": "(0.5, 0.5, 0.5)"},
        {"std": "[1, 1, 0]"},
        {"std": '["1", 1, 1]'},
        {"timm_kwargs": "[]"},
        {"timm_kwargs": "pad_type=same"},
        {"timm_kwargs": '{"checkpoint_path": "other.pth"}'},
        {"timm_kwargs": '{"pad_typ": "same"}'},
    ],
)
def test_metadata_that_cannot_be_used(
    write_weights: WriteWeights, metadata: dict[str, str]
) -> None:
    with pytest.raises(InputError, match=next(iter(metadata))) as caught:
        load_supernet(SPACE, str(write_weights(**metadata)))
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_files(write_weights: WriteWeights, tmp_path: Path) -> None:
    whole = write_weights().read_bytes()
    pickle = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, pickle)
    files = {"empty": b"", "truncated": whole[: len(whole) // 2], "pickle": pickle.read_bytes()}
    for name, content in files.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.safetensors") as caught:
            load_supernet(SPACE, str(path))
        assert "\n" not in str(caught.value)
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(InputError, match="no such file"):
            load_supernet(SPACE, str(path))
