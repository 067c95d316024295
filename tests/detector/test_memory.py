import pytest
import torch

from autopatch.detector import MAX_CORESET_SAMPLE, MemoryBank, memory, total_flops
from autopatch.kernels import aggregate_patches, reference


def feature_maps(images=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 5, 8, 8, generator=generator),
        torch.randn(images, 7, 4, 4, generator=generator),
    ]


def test_all_patches_are_kept_in_order():
    maps = feature_maps()
    bank = MemoryBank.fit(maps, (3, 1), bank_size=None).bank
    expected = reference.aggregate_patches(maps, (3, 1))
    torch.testing.assert_close(bank, expected)


def test_a_bank_larger_than_the_patches_keeps_them_all():
    assert len(MemoryBank.fit(feature_maps(), (1, 1), bank_size=5000).bank) == 20 * 64


def test_the_bank_is_the_coreset_of_the_patches():
    maps = feature_maps()
    bank = MemoryBank.fit(maps, (3, 3), bank_size=40, seed=5).bank
    patches = reference.aggregate_patches(maps, (3, 3))
    start = int(torch.randint(len(patches), (), generator=torch.Generator().manual_seed(5)))
    indices, _ = reference.greedy_coreset(patches, 40, start=start)
    torch.testing.assert_close(bank, patches[indices])


def test_a_sample_of_the_patches_bounds_the_coreset(monkeypatch):
    monkeypatch.setattr(memory, "MAX_CORESET_SAMPLE", 100)
    maps = feature_maps()
    patches = aggregate_patches(maps, (1, 1))
    generator = torch.Generator().manual_seed(3)
    sample = torch.randperm(len(patches), generator=generator)[:100].sort().values
    bank = MemoryBank.fit(maps, (1, 1), bank_size=100, seed=3).bank
    # The coreset of all 100 sampled rows is those rows, in another order.
    expected = {tuple(row.tolist()) for row in patches[sample]}
    assert {tuple(row.tolist()) for row in bank} == expected


def test_seed_decides():
    first, again, other = (
        MemoryBank.fit(feature_maps(), (3, 3), bank_size=50, seed=seed).bank for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_maps_are_squared_distances_resized_bilinearly():
    bank = MemoryBank.fit(feature_maps(), (3, 3), bank_size=60)
    maps = feature_maps(images=19, seed=9)
    found = bank.anomaly_maps(maps, 20)
    distances, _ = reference.nearest_neighbors(reference.aggregate_patches(maps, (3, 3)), bank.bank)
    expected = torch.nn.functional.interpolate(
        distances.reshape(19, 1, 8, 8), size=(20, 20), mode="bilinear", align_corners=False
    ).squeeze(1)
    assert found.shape == (19, 20, 20)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("at_a_time", "steps"), [(1, range(1, 20)), (60 * 64 * 7, (7, 14, 19))])
def test_large_banks_are_searched_in_steps_one_is_told_of(monkeypatch, at_a_time, steps):
    bank = MemoryBank.fit(feature_maps(), (3, 3), bank_size=60)
    maps = feature_maps(images=19, seed=9)
    whole = bank.anomaly_maps(maps, 20)
    monkeypatch.setattr(memory, "_DISTANCES_AT_A_TIME", at_a_time)
    told = []
    assert torch.equal(bank.anomaly_maps(maps, 20, lambda *step: told.append(step)), whole)
    assert told == [(done, 19) for done in steps]


def test_images_of_the_bank_have_distance_zero():
    maps = feature_maps(images=3)
    assert MemoryBank.fit(maps, (3, 3), bank_size=None).anomaly_maps(maps, 8).max() == 0


def test_bank_larger_than_the_sample():
    maps = [torch.zeros(1, 1, 300, 300)]
    with pytest.raises(ValueError, match="bank_size"):
        MemoryBank.fit(maps, (1,), bank_size=MAX_CORESET_SAMPLE + 1)


def test_total_flops():
    assert total_flops(1000, queries=49, bank_rows=10, channels=3) == 1000 + 2 * 49 * 10 * 3
