import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from autopatch.detector import (
    GoodMaps,
    Head,
    MemoryBank,
    PatchAggregator,
    fit_head,
    scoring,
    total_flops,
)
from autopatch.errors import InputError
from autopatch.kernels import aggregate_patches, reference


def feature_maps(images=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 5, 8, 8, generator=generator),
        torch.randn(images, 7, 4, 4, generator=generator),
    ]


def fitted(maps, patch_sizes, *, bank_size, neighbors=1, size=20):
    return fit_head(GoodMaps.of(maps), Head(patch_sizes, bank_size, neighbors=neighbors), size=size)


def bank_of(maps, patch_sizes, *, bank_size):
    return fitted(maps, patch_sizes, bank_size=bank_size).memory.bank


def test_all_patches_are_kept_in_order():
    maps = feature_maps()
    bank = bank_of(maps, (3, 1), bank_size=None)
    expected = reference.aggregate_patches(maps, (3, 1))
    torch.testing.assert_close(bank, expected)


def test_a_bank_larger_than_the_patches_keeps_them_all():
    assert len(bank_of(feature_maps(), (1, 1), bank_size=5000)) == 20 * 64


def test_the_bank_is_the_coreset_of_all_patches():
    maps = feature_maps()
    patches = reference.aggregate_patches(maps, (3, 3))
    start = int((patches - patches.mean(0)).square().sum(1).argmin())
    indices, radii = reference.greedy_coreset(patches, 40, start=start)
    head = fitted(maps, (3, 3), bank_size=40)
    torch.testing.assert_close(head.memory.bank, patches[indices])
    assert head.radius == pytest.approx(float(radii[-1]), rel=1e-5)
    # A smaller bank is its beginning.
    assert torch.equal(bank_of(maps, (3, 3), bank_size=15), head.memory.bank[:15])


def test_the_order_of_the_images_does_not_matter():
    maps = feature_maps()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))
    shuffled = [m[order] for m in maps]
    assert torch.equal(bank_of(shuffled, (3, 3), bank_size=50), bank_of(maps, (3, 3), bank_size=50))


@pytest.mark.parametrize("neighbors", [1, 3, 100])
def test_distances_are_averaged_over_neighbors(neighbors):
    patches = torch.randn(150, 12, generator=torch.Generator().manual_seed(5))
    bank, patches = patches.split([60, 90])
    expected, _ = reference.nearest_neighbors(patches, bank, min(neighbors, 60))
    torch.testing.assert_close(
        MemoryBank(bank, neighbors=neighbors)(patches).double(),
        expected.mean(1),
        rtol=1e-5,
        atol=1e-6,
    )


def test_maps_are_squared_distances_resized_bilinearly():
    head = fitted(feature_maps(), (3, 3), bank_size=60)
    maps = feature_maps(images=19, seed=9)
    found = head.anomaly_maps(maps)
    patches = reference.aggregate_patches(maps, (3, 3))
    distances, _ = reference.nearest_neighbors(patches, head.memory.bank)
    expected = torch.nn.functional.interpolate(
        distances.reshape(19, 1, 8, 8), size=(20, 20), mode="bilinear", align_corners=False
    ).squeeze(1)
    assert found.shape == (19, 20, 20)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        head.memory(patches.float()).double(), distances.flatten(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("at_a_time", "steps"), [(1, range(1, 20)), (60 * 64 * 7, (7, 14, 19))])
def test_large_banks_are_searched_in_steps_one_is_told_of(monkeypatch, at_a_time, steps):
    head = fitted(feature_maps(), (3, 3), bank_size=60)
    maps = feature_maps(images=19, seed=9)
    whole = head.anomaly_maps(maps)
    monkeypatch.setattr(scoring, "_DISTANCES_AT_A_TIME", at_a_time)
    told = []
    assert torch.equal(head.anomaly_maps(maps, lambda *step: told.append(step)), whole)
    assert told == [(done, 19) for done in steps]


def test_images_of_the_bank_have_distance_zero():
    maps = feature_maps(images=3)
    assert fitted(maps, (3, 3), bank_size=None, size=8).anomaly_maps(maps).max() == 0


def test_the_bank_is_the_state_of_the_module():
    patches = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    bank, other = MemoryBank(patches[:200]), MemoryBank(torch.zeros(3, 12))
    assert isinstance(bank, nn.Module)
    state = bank.state_dict()
    assert list(state) == ["bank"]  # not the screen, which belongs to the device
    other.load_state_dict(state)
    assert len(other) == 200
    assert torch.equal(other(patches), bank(patches))
    expected, _ = reference.nearest_neighbors(patches, patches[:200])
    torch.testing.assert_close(other(patches).double(), expected[:, 0], rtol=1e-5, atol=1e-6)
    assert other.screen.shape == bank.screen.shape
    state["bank"].zero_()  # what was loaded is a copy
    assert other.bank.abs().sum() > 0


def test_the_bank_of_a_parent_is_loaded_with_it():
    patches = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    whole = nn.ModuleDict({"inner": MemoryBank(patches[:20])})
    other = nn.ModuleDict({"inner": MemoryBank(patches[:7])})
    other.load_state_dict(whole.state_dict())
    assert torch.equal(other["inner"](patches), whole["inner"](patches))


@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_bank_is_float32_and_a_copy(assign):
    patches = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    bank = MemoryBank(patches[:200])
    state = {"bank": patches[200:].double()}
    bank.load_state_dict(state, assign=assign)
    state["bank"].zero_()
    assert bank.bank.dtype == torch.float32
    assert torch.equal(bank(patches), MemoryBank(patches[200:])(patches))


def test_a_bank_may_be_loaded_while_another_thread_searches_it(at_every_instruction):
    patches = torch.randn(420, 12, generator=torch.Generator().manual_seed(0))
    queries, banks = patches[400:], [patches[:200].clone(), patches[200:400].clone()]
    expected = [MemoryBank(rows)(queries) for rows in banks]
    bank = MemoryBank(banks[0])

    def load():
        now = int(torch.equal(bank.bank, banks[0]))
        bank.load_state_dict({"bank": banks[now]})

    def search():
        found = bank(queries)
        assert any(torch.equal(found, one) for one in expected)

    for inside in (MemoryBank._set, MemoryBank._load_from_state_dict):
        assert at_every_instruction(load, inside, search) > 10
    assert at_every_instruction(search, MemoryBank.forward, load) > 10
    to_double_and_back = bank.double
    assert at_every_instruction(to_double_and_back, MemoryBank._apply, search) > 10


def test_a_bank_stays_float32():
    patches = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    bank = MemoryBank(patches[:20]).double()
    assert bank.bank.dtype == torch.float32
    assert torch.equal(bank(patches), MemoryBank(patches[:20])(patches))


def test_a_bank_without_memory_has_no_screen():
    bank = MemoryBank(torch.randn(20, 4)).to("meta")
    assert bank.bank.is_meta
    assert bank.screen is None


def test_the_aggregator_pools_as_the_kernel():
    maps = feature_maps(images=2)
    assert torch.equal(PatchAggregator((3, 1))(maps), aggregate_patches(maps, (3, 1)))


def test_an_unknown_step():
    with pytest.raises(InputError, match="step of the head is 'blur'"):
        Head((3,), 10, {"blur": 2})


def test_total_flops():
    assert total_flops(1000, queries=49, rows=10, features=3) == 1000 + 2 * 49 * 10 * 3


def test_maps_are_smoothed():
    maps, new = feature_maps(), feature_maps(images=5, seed=9)
    plain = fitted(maps, (3, 3), bank_size=60)
    head = Head((3, 3), 60, smoothing=1.5)
    smooth = fit_head(GoodMaps.of(maps), head, size=20)
    expected = [
        ndimage.gaussian_filter(m.numpy(), 1.5, mode="reflect", truncate=4)
        for m in plain.anomaly_maps(new)
    ]
    torch.testing.assert_close(
        smooth.anomaly_maps(new), torch.from_numpy(np.stack(expected)), rtol=1e-5, atol=1e-6
    )
