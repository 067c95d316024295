"""What a search does is counted exactly, and is never less than its least."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch

from autopatch import _C
from autopatch.kernels import (
    NearestNeighborIndex,
    least_search_work,
    nearest_neighbors,
    search_work,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near_a_plane(rows: int, features: int, seed: int = 0) -> torch.Tensor:
    """Rows that a few directions describe nearly."""
    return normal(rows, 8, seed=seed) @ normal(8, features) + 0.01 * normal(rows, features, seed=9)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000])
def test_without_pivots_the_first_group_is_computed_whole(isa: str, rows: int) -> None:
    work = search_work(normal(7, 10), NearestNeighborIndex(normal(rows, 10, seed=1)))
    assert (work.rows, work.features, work.codes, work.is_projected) == (rows, 10, 12, False)
    least = -(-rows // 64)
    assert least <= work.groups <= least + 2  # outliers have groups of their own
    assert 1 <= work.visits <= work.groups
    if work.groups == 1:
        assert (work.distances, work.visits) == (rows, 1)
    elif rows == 1000:
        assert 50 < work.distances < 200


def test_distant_rows_are_ruled_out(isa: str) -> None:
    # Each query has its own group, far from all others.
    centers = 100 * torch.eye(16)
    bank = (centers[:, None] + 0.1 * normal(16, 64, 16)).flatten(0, 1)
    work = search_work(centers, NearestNeighborIndex(bank))
    assert 16 <= work.groups <= 17
    assert work.distances < 0.1 * len(bank)
    assert work.visits < 4


def test_counts_do_not_depend_on_threads_order_and_blocks() -> None:
    bank, queries = near_a_plane(5000, 60), near_a_plane(1500, 60, seed=1)
    index = NearestNeighborIndex(bank)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = search_work(queries, index, 3)
        torch.set_num_threads(3)
        assert search_work(queries, index, 3) == one
    finally:
        torch.set_num_threads(before)
    assert search_work(queries.flip(0), index, 3) == one
    halves = [search_work(part, index, 3).distances for part in queries.chunk(2)]
    assert sum(halves) / 2 == pytest.approx(one.distances)
    assert search_work(queries, index, 1).distances < one.distances


def test_counts_of_instruction_sets_agree(isa: str) -> None:
    index = NearestNeighborIndex(near_a_plane(3000, 60))
    queries = near_a_plane(200, 60, seed=1)
    of_this = search_work(queries, index)
    _C.set_active_isa("generic")
    of_generic = search_work(queries, index)
    assert of_this.distances == pytest.approx(of_generic.distances, rel=0.01)
    assert of_this.visits == pytest.approx(of_generic.visits, rel=0.01)


def test_counting_changes_no_result() -> None:
    index, queries = NearestNeighborIndex(normal(2000, 24)), normal(300, 24, seed=1)
    before = nearest_neighbors(queries, index)
    search_work(queries, index)
    assert all(map(torch.equal, nearest_neighbors(queries, index), before))


def test_of_identical_rows_one_is_in_a_group() -> None:
    bank = normal(64, 20)
    assert search_work(bank, NearestNeighborIndex(bank.repeat(40, 1))).groups <= 2


@pytest.mark.parametrize("features", [1, 5, 32, 200])
@pytest.mark.parametrize("rows", [1, 500, 1023, 1024, 4000])
def test_no_search_does_less_than_the_least(rows: int, features: int) -> None:
    bank = near_a_plane(rows, features)
    done = search_work(near_a_plane(100, features, seed=1), NearestNeighborIndex(bank))
    least = least_search_work(rows, features)
    assert (done.rows, done.features) == (least.rows, least.features)
    for name in ("codes", "groups", "distances", "visits"):
        assert getattr(done, name) >= getattr(least, name)
    if rows < 1024:
        assert done.codes == least.codes


def test_layout_does_not_matter() -> None:
    bank, queries = normal(3000, 40), normal(50, 40, seed=1)
    index = NearestNeighborIndex(bank)
    turned = NearestNeighborIndex.of_parts(bank.T.contiguous().T, index.screen)
    expected = search_work(queries, index)
    assert search_work(queries, turned) == expected
    assert search_work(queries.T.contiguous().T, index) == expected


def test_an_index_may_change_meanwhile() -> None:
    index, queries = NearestNeighborIndex(normal(3000, 40)), normal(50, 40, seed=1)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            index.add(normal(500, 40, seed=2))
            index.remove(torch.arange(500))

    thread = threading.Thread(target=change)
    thread.start()
    for _ in range(50):
        assert search_work(queries, index).rows in (3000, 3500)
    stop.set()
    thread.join()


def test_a_projection_is_told() -> None:
    work = search_work(normal(10, 200), NearestNeighborIndex(near_a_plane(4000, 200)))
    assert work.is_projected
    assert work.codes < 200
    assert dataclasses.asdict(work)["codes"] == work.codes


def test_wrong_arguments_are_named() -> None:
    index = NearestNeighborIndex(normal(5, 3))
    with pytest.raises(ValueError, match="`queries` has no rows, expected at least one"):
        search_work(normal(0, 3), index)
    with pytest.raises(ValueError, match="`queries` has 4 columns, `bank` has 3"):
        search_work(normal(2, 4), index)
    with pytest.raises(ValueError, match="`k` is 6, expected 1 to the 5 rows of `bank`"):
        search_work(normal(2, 3), index, 6)
    on_meta = NearestNeighborIndex(torch.zeros(5, 3, device="meta"))
    with pytest.raises(NotImplementedError, match="work on meta cannot be counted"):
        search_work(torch.zeros(2, 3, device="meta"), on_meta)
