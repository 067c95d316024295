import pytest
import torch

from autopatch.detector.coreset import _KERNEL_BYTES, choose_coreset
from autopatch.kernels import nearest_neighbors, reference

DIM = 6
BYTES = 4 * DIM + _KERNEL_BYTES  # for each patch


def patches(count=2000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 5 * torch.randn(12, DIM, generator=generator)
    chosen = torch.randint(12, (count,), generator=generator)
    return centers[chosen] + torch.randn(count, DIM, generator=generator)


def covering_radius(rows, chosen):
    return float(nearest_neighbors(rows, chosen)[0].sqrt().max())


def test_within_the_memory_it_is_the_coreset_of_all():
    rows = patches()
    start = int((rows - rows.mean(0)).square().sum(1).argmin())
    indices, radii = reference.greedy_coreset(rows, 50, start=start)
    told: list[tuple[int, int]] = []
    found = choose_coreset(
        rows.split(300),
        50,
        patches=2000,
        memory_bytes=2000 * BYTES,
        told=lambda *numbers: told.append(numbers),
    )
    assert told == [(0, 50), (50, 50)]
    assert torch.equal(found.rows, rows[indices])
    assert torch.equal(found.radii, radii)
    assert (found.lost, found.patches) == (0, 2000)
    assert found.radius(50) == pytest.approx(covering_radius(rows, found.rows), rel=1e-6)


@pytest.mark.parametrize("block", [1, 77, 500, 2000])
@pytest.mark.parametrize("memory", [110, 300, 1999])
def test_beyond_the_memory_the_radius_bounds_what_is_lost(block, memory):
    rows = patches()
    found = choose_coreset(rows.split(block), 50, patches=2000, memory_bytes=memory * BYTES)
    assert found.lost > 0
    for count in (10, 50):
        covered = covering_radius(rows, found.rows[:count])
        assert covered <= found.radius(count) * (1 + 1e-6)
    # Every row is a patch, and none is chosen twice.
    assert covering_radius(found.rows, rows) == 0
    assert len(found.rows.unique(dim=0)) == 50


def test_the_order_of_the_patches_changes_no_more_than_the_bound():
    rows = patches()
    plain = choose_coreset([rows], 50, patches=2000)
    for seed in range(3):
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(seed))
        shuffled = rows[order]
        assert torch.equal(choose_coreset([shuffled], 50, patches=2000).rows, plain.rows)
        found = choose_coreset(shuffled.split(90), 50, patches=2000, memory_bytes=500 * BYTES)
        assert covering_radius(rows, found.rows) <= found.radius(50) * (1 + 1e-6)
        # Gonzalez: at most twice the best radius, beyond what was lost.
        assert covering_radius(rows, found.rows) <= 2 * plain.radius(50) + found.lost


def test_smaller_coresets_are_its_beginning():
    rows = patches()
    for memory in (2000, 400):
        small, large = (
            choose_coreset(rows.split(100), count, patches=2000, memory_bytes=memory * BYTES)
            for count in (20, 100)
        )
        if memory == 2000:
            assert torch.equal(large.rows[:20], small.rows)
        assert (large.radii.diff() <= 0).all()


def test_all_patches_are_kept_in_order_without_regard_to_the_memory():
    rows = patches(100)
    for count in (None, 100, 200):
        found = choose_coreset(rows.split(30), count, patches=100, memory_bytes=1)
        assert torch.equal(found.rows, rows)
        assert found.radius(100) == found.radius(3) == 0


def test_the_memory_is_not_exceeded(monkeypatch):
    rows = patches()
    sizes = []
    new_empty = torch.Tensor.new_empty

    def noted(tensor, size, **options):
        sizes.append(size)
        return new_empty(tensor, size, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", noted)
    choose_coreset(rows.split(100), 50, patches=2000, memory_bytes=333 * BYTES)
    assert max(size[0] for size in sizes if len(size) == 2 and size[1] == DIM) == 333


def test_a_memory_that_is_too_small():
    with pytest.raises(
        ValueError, match="coreset of 50 of 2000 patches with 6 features needs 0 MiB"
    ):
        choose_coreset([patches()], 50, patches=2000, memory_bytes=99 * BYTES)


def test_no_patches():
    with pytest.raises(ValueError, match="has no patch"):
        choose_coreset([], 50, patches=0)
