"""The supernet in this package."""

import pytest
import torch

from autopatch.errors import InputError
from autopatch.supernet import elastic_supernet, load_supernet, read_safetensors


def test_it_is_the_default():
    supernet = load_supernet()
    assert supernet.name == "autopatch_s"
    assert supernet.provenance == "weights of autopatch_s in this package"
    as_file = load_supernet("autopatch_s", elastic_supernet._AUTOPATCH_S_FILE)
    assert supernet.weights_sha256 == as_file.weights_sha256
    assert not supernet.random_features
    assert supernet.mean == supernet.std == (0.5, 0.5, 0.5)


def test_weights_of_narrow_subnets_alone_are_hashed_too():
    changed = load_supernet()
    with torch.no_grad():
        next(changed.network.own.parameters()).add_(1)
    assert changed.weights_sha256 != load_supernet().weights_sha256


def test_its_file_is_small_and_has_no_statistics():
    file = elastic_supernet._AUTOPATCH_S_FILE
    assert file.stat().st_size < 8e6
    metadata, state = read_safetensors(file)
    assert metadata["timm_model"] == "mobilenetv2_100"
    kinds = {"running_mean": 0, "running_var": 1}
    for name, value in state.items():
        kind = name.rpartition(".")[2]
        if kind in kinds:  # the same for every subnet
            assert (value == kinds[kind]).all(), name
        else:
            assert value.dtype == (torch.int64 if kind == "num_batches_tracked" else torch.float16)


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_damaged_installation(monkeypatch, tmp_path, damage):
    file = tmp_path / "autopatch_s.safetensors"
    if damage == "damaged":
        content = bytearray(elastic_supernet._AUTOPATCH_S_FILE.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    monkeypatch.setattr(elastic_supernet, "_AUTOPATCH_S_FILE", file)
    with pytest.raises(InputError, match=f"autopatch_s.safetensors: is {damage}; reinstall"):
        load_supernet()


def test_weights_of_other_networks_are_refused():
    with pytest.raises(InputError, match="autopatch_s has no weights 'pretrained'"):
        load_supernet("autopatch_s", "pretrained")
    with pytest.raises(InputError, match="elastic:mobilenetv2_100 has no weights 'auto'"):
        load_supernet("elastic:mobilenetv2_100")
    with pytest.raises(InputError, match="timm:resnet18 has no weights of its own: give `weights`"):
        load_supernet("timm:resnet18")
