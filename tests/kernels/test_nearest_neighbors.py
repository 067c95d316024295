from __future__ import annotations

import itertools
import pickle
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
import torch

from autopatch import _C
from autopatch.kernels import NearestNeighborIndex, nearest_neighbors, reference

SIZES = (1, 15, 16, 17, 31, 32, 33, 100)
Interrupt = Callable[[Callable[[], object], Callable[..., object], Callable[[], object]], int]
DIMS = (1, 3, 16, 17, 50)
RELATIVE = 1e-5


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_nearest(
    found: tuple[torch.Tensor, torch.Tensor],
    queries: torch.Tensor,
    bank: torch.Tensor,
    k: int = 1,
    *,
    expected: torch.Tensor | None = None,
) -> None:
    """Distances and rows are those of float64 within the promised tolerance, without repeats; the
    distances are `expected`, where they are known already."""
    distances, indices = (result.cpu() for result in found)
    queries, bank = queries.cpu(), bank.cpu()
    assert distances.dtype == torch.float32
    assert indices.dtype == torch.int64
    assert distances.shape == indices.shape == (len(queries), k)
    if expected is None:
        expected, _ = reference.nearest_neighbors(queries, bank, k)
    torch.testing.assert_close(distances.double(), expected, rtol=RELATIVE, atol=0)
    rows = bank.double()[indices]
    of_rows = (rows - queries.double()[:, None]).square().sum(dim=2)
    torch.testing.assert_close(of_rows, expected, rtol=RELATIVE, atol=0)
    assert (distances.diff(dim=1) >= 0).all()
    ordered = indices.sort(dim=1).values
    assert (ordered.diff(dim=1) > 0).all(), "a row is given twice"


@pytest.mark.parametrize("dim", DIMS)
def test_matches_the_reference(backend: torch.device, dim: int) -> None:
    for num_queries, num_rows in itertools.product(SIZES, SIZES):
        queries = normal(num_queries, dim, seed=num_queries).to(backend)
        bank = normal(num_rows, dim, seed=1000 + num_rows).to(backend)
        found = nearest_neighbors(queries, bank, num_threads=1)
        assert_nearest(found, queries, bank)
        for threads in (2, 3):
            again = nearest_neighbors(queries, bank, num_threads=threads)
            assert all(map(torch.equal, again, found))


@pytest.mark.parametrize("k", [1, 2, 5, 33])
@pytest.mark.parametrize("dim", DIMS)
def test_k_neighbors_match_the_reference(backend: torch.device, dim: int, k: int) -> None:
    queries = normal(50, dim).to(backend)
    for num_rows in (k, k + 1, 100):
        bank = normal(num_rows, dim, seed=1).to(backend)
        assert_nearest(nearest_neighbors(queries, bank, k), queries, bank, k)


def test_more_queries_than_a_thread_takes_at_a_time(backend: torch.device) -> None:
    queries, bank = normal(1500, 20).to(backend), normal(700, 20, seed=1).to(backend)
    found = nearest_neighbors(queries, bank, 3, num_threads=1)
    assert_nearest(found, queries, bank, 3)
    for threads in (2, 3):
        again = nearest_neighbors(queries, bank, 3, num_threads=threads)
        assert all(map(torch.equal, again, found))


@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, 100.0), (1e-3, 100.0), (1e15, 0.0), (1e12, 1e14), (1e-12, 0.0)]
)
def test_offset_and_magnitude_cost_no_accuracy(
    backend: torch.device, scale: float, offset: float
) -> None:
    queries = (normal(64, 48) * scale + offset).to(backend)
    bank = (normal(300, 48, seed=1) * scale + offset).to(backend)
    assert_nearest(nearest_neighbors(queries, bank, 2), queries, bank, 2)


def test_a_long_sum_of_equal_terms_stays_accurate(backend: torch.device) -> None:
    # Equal terms round the same way each time, the worst case for a sum.
    for value in (0.1, 0.77, 2.9):
        queries = torch.full((7, 4096), value, device=backend)
        assert_nearest(
            nearest_neighbors(queries, torch.zeros(1, 4096, device=backend)),
            queries,
            torch.zeros(1, 4096),
        )


def test_small_terms_behind_a_large_one_are_not_lost(backend: torch.device) -> None:
    # Each is less than half of what the sum can tell apart.
    for step in (1, 16, 256):
        bank = torch.zeros(1, 4096)
        bank[0, step::step] = 5.9e-8**0.5
        bank[0, 0] = 1
        queries = torch.zeros(7, 4096, device=backend)
        assert_nearest(nearest_neighbors(queries, bank.to(backend)), queries, bank)


def test_rows_of_the_bank_are_found_at_zero(backend: torch.device) -> None:
    bank = (normal(200, 37) + 100).to(backend)
    distances, indices = nearest_neighbors(bank, bank)
    assert (distances == 0).all()
    assert torch.equal(indices[:, 0].cpu(), torch.arange(200))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_identical_rows_give_the_lowest_index(backend: torch.device, threads: int) -> None:
    few = normal(7, 19).to(backend)
    bank = few.repeat(20, 1)
    queries = normal(101, 19, seed=1).to(backend)
    _, of_few = nearest_neighbors(queries, few)
    _, indices = nearest_neighbors(queries, bank, num_threads=threads)
    assert torch.equal(indices, of_few)
    _, indices = nearest_neighbors(queries, bank, 20, num_threads=threads)
    assert torch.equal(indices, of_few + 7 * torch.arange(20, device=backend))


def test_whole_numbers_give_the_reference_exactly(backend: torch.device) -> None:
    # Many ties, and every sum is exact.
    queries = (normal(60, 5) * 2).round().to(backend)
    bank = (normal(150, 5, seed=1) * 2).round().to(backend)
    distances, indices = nearest_neighbors(queries, bank, 150)
    expected_distances, expected_indices = reference.nearest_neighbors(
        queries.cpu(), bank.cpu(), 150
    )
    assert torch.equal(distances.cpu().double(), expected_distances)
    assert torch.equal(indices.cpu(), expected_indices)


def test_threads_do_not_change_the_result(isa: str) -> None:
    queries, bank = normal(999, 30), normal(500, 30, seed=1)
    one = nearest_neighbors(queries, bank, 4, num_threads=1)
    for threads in (2, 3, 8):
        other = nearest_neighbors(queries, bank, 4, num_threads=threads)
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def outlying(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.clone()
    rows[::50] *= 100
    rows[3::40, rows.shape[1] // 2] *= 1000
    return rows


def clusters(rows: torch.Tensor) -> torch.Tensor:
    centers = 1000 * normal(7, rows.shape[1], seed=9)
    return centers[torch.arange(len(rows)) % 7] + 1e-3 * rows


def correlated(rows: torch.Tensor) -> torch.Tensor:
    dim = rows.shape[1]
    mix = normal(dim, dim, seed=8) * torch.logspace(0, -3, dim)
    return torch.relu(rows @ mix.T)


HARD = {
    "independent": lambda rows: rows,
    "correlated": correlated,
    "offset": lambda rows: correlated(rows) + 100,
    "outliers": outlying,
    "heavy tails": lambda rows: rows / normal(*rows.shape, seed=7),
    "tight clusters": clusters,
    "one dimension": lambda rows: rows[:, :1] * torch.ones(rows.shape[1]),
    "two values": lambda rows: (rows > 1).float(),
    "constant": lambda rows: torch.full_like(rows, 0.3),
    "constant features": lambda rows: rows * (torch.arange(rows.shape[1]) % 3 == 0),
    # Equal coordinates along most directions, whichever the feature.
    "one feature each": lambda rows: (
        5 * torch.eye(rows.shape[1])[7 * torch.arange(len(rows)) % rows.shape[1]]
    ),
    "huge": lambda rows: rows * 1e17,
    "tiny": lambda rows: rows * 1e-17,
    "subnormal": lambda rows: rows * 1e-39,
    "every magnitude": lambda rows: rows * torch.logspace(-20, 14, len(rows))[:, None],
}


@pytest.fixture(
    scope="module", params=itertools.product(HARD, (20, 150)), ids="{0[0]}-{0[1]}".format
)
def hard(request: pytest.FixtureRequest) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Name, queries, a bank large enough for pivots, and the reference's 40 distances."""
    data, dim = request.param
    rows = HARD[data](normal(1700, dim))
    queries = torch.cat([rows[:200], rows[1500:], 3 * rows[:50], rows[:50] + 0.5])
    bank = torch.cat([rows[:900], rows[600:1500]])
    return data, queries, bank, reference.nearest_neighbors(queries, bank, 40)[0]


def test_hard_data_is_searched_exactly(
    backend: torch.device, hard: tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    data, queries, bank, expected = hard
    index = NearestNeighborIndex(bank.to(backend))
    found = nearest_neighbors(queries.to(backend), index, 40)
    if data == "subnormal":
        # Squares of such differences are zero in float32, whatever the row.
        assert (found[0][:200] == 0).all()
    else:
        assert_nearest(found, queries, bank, 40, expected=expected)
    for k in (1, 5):
        fewer = nearest_neighbors(queries.to(backend), index, k)
        assert torch.equal(fewer[0], found[0][:, :k])
        assert torch.equal(fewer[1], found[1][:, :k])


@pytest.mark.parametrize("k", [1, 3, 100])
def test_repeated_rows_are_all_found(backend: torch.device, k: int) -> None:
    few = correlated(normal(70, 60))
    bank = few.repeat(40, 1)
    index = NearestNeighborIndex(bank.to(backend))
    queries = torch.cat([few, correlated(normal(900, 60, seed=1))])
    found = nearest_neighbors(queries.to(backend), index, k)
    _, order = reference.nearest_neighbors(queries, few, 3)
    expected = (order[:, :, None] + 70 * torch.arange(40)).flatten(1)[:, :k]
    assert torch.equal(found[1].cpu(), expected)


def test_the_screen_changes_nothing(isa: str) -> None:
    bank, queries = correlated(normal(5000, 96)), correlated(normal(600, 96, seed=1))
    index = NearestNeighborIndex(bank)
    distances, rows = nearest_neighbors(queries, index, 3)
    for first in range(0, 600, 50):  # too few queries for a screen
        some = queries[first : first + 50]
        plain = nearest_neighbors(some, bank, 3)
        assert torch.equal(plain[0], distances[first : first + 50])
        assert torch.equal(plain[1], rows[first : first + 50])
    made_for_this_search = nearest_neighbors(queries, bank, 3)
    assert torch.equal(made_for_this_search[0], distances)
    assert torch.equal(made_for_this_search[1], rows)


def test_a_screen_of_another_level_serves(isa: str) -> None:
    bank, queries = correlated(normal(3000, 64)), correlated(normal(200, 64, seed=1))
    index = NearestNeighborIndex(bank)
    for level in _C.isa_levels():
        _C.set_active_isa(level)
        assert_nearest(nearest_neighbors(queries, index, 2), queries, bank, 2)


@pytest.mark.parametrize("rows", [20, 1025])
def test_more_features_than_are_coded_one_by_one(isa: str, rows: int) -> None:
    dim = _C.max_screen_width + 5
    bank, queries = normal(rows, dim), normal(10, dim, seed=1)
    assert_nearest(nearest_neighbors(queries, NearestNeighborIndex(bank)), queries, bank)


@pytest.mark.parametrize("dim", [16, 40, 128, 512])
def test_an_index_takes_at_most_half_the_memory_of_its_bank(dim: int) -> None:
    for bank in (normal(20_000, dim), correlated(normal(20_000, dim))):
        index = NearestNeighborIndex(bank)
        assert index.screen is not None
        assert index.screen.numel() <= 0.5 * 4 * bank.numel() + 2**14


def test_rows_are_added_and_removed(backend: torch.device) -> None:
    rows = normal(3000, 24).to(backend)
    queries = normal(50, 24, seed=1).to(backend)
    index = NearestNeighborIndex(rows[:1000])
    index.add(rows[1000:])
    assert torch.equal(index.bank, rows)
    for found, expected in zip(
        nearest_neighbors(queries, index, 3), nearest_neighbors(queries, rows, 3), strict=True
    ):
        assert torch.equal(found, expected)
    gone = nearest_neighbors(queries, index)[1].flatten()
    index.remove(gone)
    kept = torch.ones(3000, dtype=torch.bool, device=backend)
    kept[gone] = False
    assert torch.equal(index.bank, rows[kept])
    assert_nearest(nearest_neighbors(queries, index), queries, rows[kept])
    index.remove(np.array([], dtype=np.int64))
    assert len(index) == int(kept.sum())


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"`rows` has shape \[2, 3\], expected \[n, 4\]"),
        (torch.zeros(4), ValueError, r"`rows` has shape \[4\]"),
        (torch.zeros(2, 4).double(), TypeError, "`rows` has dtype float64"),
        (torch.full((1, 4), torch.nan), ValueError, "`rows` holds NaN or infinity"),
    ],
)
def test_rows_that_do_not_fit_are_not_added(
    rows: torch.Tensor, error: type[Exception], message: str
) -> None:
    index = NearestNeighborIndex(normal(10, 4))
    with pytest.raises(error, match=message):
        index.add(rows)
    assert len(index) == 10


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (torch.tensor([3, 10]), ValueError, "`indices` holds 10, expected 0 to 9"),
        (torch.tensor([-1]), ValueError, "`indices` holds -1, expected 0 to 9"),
        (torch.arange(10), ValueError, "`indices` are all rows of the bank"),
        (torch.tensor([1.0]), TypeError, "`indices` has dtype float32, expected integers"),
        (torch.ones(10, dtype=torch.bool), TypeError, "`indices` has dtype bool"),
    ],
)
def test_rows_that_are_not_there_are_not_removed(
    indices: torch.Tensor, error: type[Exception], message: str
) -> None:
    index = NearestNeighborIndex(normal(10, 4))
    with pytest.raises(error, match=message):
        index.remove(indices)
    assert len(index) == 10


ALTERED_SCREENS = """
import torch
from autopatch.kernels import NearestNeighborIndex

generator = torch.Generator().manual_seed(0)
rows, dim = 5000, 40
bank = torch.randn(rows, dim, generator=generator) * torch.linspace(2, 0.02, dim)
bank[::9] = bank[0]  # twins
bank[7] = 1e30  # a segment that is never screened out
screen = NearestNeighborIndex(bank).screen
words = screen.view(torch.int32)
searches = 0
for trial in range(120):
    altered = words.clone()
    # Somewhere in the header and the places of clusters, or anywhere behind the header.
    begin, end = (0, 400) if trial % 2 else (146, len(words))
    first = int(torch.randint(begin, end, (), generator=generator))
    count = (1, 40, len(words) // 8, len(words))[trial % 4]
    part = altered[first : first + count]
    part.copy_(torch.randint(-(2**31), 2**31 - 1, part.shape, generator=generator))
    if trial % 3 == 0:
        part.fill_(int(torch.randint(-2, 2 * rows, (), generator=generator)))
    for k in (1, 5, 40):
        queries = bank[:: rows // 20] + 0.01
        try:
            _, indices = torch.ops.autopatch.nearest_neighbors(
                queries, bank, altered.view(torch.uint8), k, True, 1
            )
        except ValueError:
            continue
        searches += 1
        assert 0 <= indices.min() and indices.max() < rows
print(searches)
"""


def test_no_altered_screen_crashes(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = python(ALTERED_SCREENS)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 180  # those altered behind the header are searched, not refused


def test_a_foreign_screen_is_refused() -> None:
    queries, bank, other = normal(5, 8), normal(30, 8), normal(31, 8)
    screens = [
        NearestNeighborIndex(other).screen,
        torch.zeros(10, dtype=torch.uint8),
        NearestNeighborIndex(bank).screen[:-1],
    ]
    for screen in screens:
        with pytest.raises(ValueError, match="`screen` does not belong to `bank`"):
            torch.ops.autopatch.nearest_neighbors(queries, bank, screen, 1, True, 1)
    with pytest.raises(TypeError, match="`screen` has dtype float32"):
        torch.ops.autopatch.nearest_neighbors(queries, bank, torch.zeros(10), 1, True, 1)


def test_empty_sizes(backend: torch.device) -> None:
    bank = normal(5, 4).to(backend)
    distances, indices = nearest_neighbors(bank[:0], bank, 3)
    assert distances.shape == indices.shape == (0, 3)
    # Without features all rows are alike.
    distances, indices = nearest_neighbors(bank[:2, :0], bank[:, :0], 3)
    assert distances.tolist() == [[0, 0, 0]] * 2
    assert indices.tolist() == [[0, 1, 2]] * 2
    with pytest.raises(ValueError, match=r"`bank` has 0 rows, expected 1 to"):
        nearest_neighbors(bank, bank[:0])
    with pytest.raises(ValueError, match=r"`bank` has 0 rows"):
        NearestNeighborIndex(bank[:0])


def test_index_is_searched_like_its_bank(backend: torch.device) -> None:
    queries, bank = normal(40, 12).to(backend), normal(90, 12, seed=1).to(backend)
    index = NearestNeighborIndex(bank)
    assert len(index) == 90
    assert repr(index) == f"NearestNeighborIndex(90 rows, 12 features, {bank.device})"
    for k in (1, 4):
        plain, indexed = nearest_neighbors(queries, bank, k), nearest_neighbors(queries, index, k)
        assert torch.equal(plain[0], indexed[0])
        assert torch.equal(plain[1], indexed[1])


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: x.repeat_interleave(2, dim=0)[::2],
        lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
        lambda x: x[:1].expand(len(x), -1),
    ],
    ids=["transposed", "every other row", "some columns", "expanded"],
)
def test_layout_does_not_matter(
    backend: torch.device, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    queries, bank = view(normal(30, 9).to(backend)), view(normal(50, 9, seed=1).to(backend))
    assert not queries.is_contiguous()
    expected = nearest_neighbors(queries.contiguous(), bank.contiguous(), 2)
    for rows in (bank, NearestNeighborIndex(bank)):
        found = nearest_neighbors(queries, rows, 2)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(backend: torch.device, dtype: torch.dtype) -> None:
    queries, bank = normal(20, 24).to(backend, dtype), normal(60, 24, seed=1).to(backend, dtype)
    assert_nearest(nearest_neighbors(queries, bank), queries.float(), bank.float())


def test_the_result_is_of_the_kind_of_the_queries() -> None:
    queries, bank = normal(20, 6), normal(30, 6, seed=1)
    expected = nearest_neighbors(queries, bank)
    for rows in (bank, bank.numpy(), NearestNeighborIndex(bank.numpy())):
        distances, indices = nearest_neighbors(queries.numpy(), rows)
        assert isinstance(distances, np.ndarray)
        assert isinstance(indices, np.ndarray)
        np.testing.assert_array_equal(distances, expected[0].numpy())
        np.testing.assert_array_equal(indices, expected[1].numpy())
        assert isinstance(nearest_neighbors(queries, rows)[0], torch.Tensor)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_errors(backend: torch.device, value: float) -> None:
    clean, dirty = normal(70, 8).to(backend), normal(70, 8, seed=1).to(backend)
    dirty[33, 5] = value
    with pytest.raises(ValueError, match="`bank` holds NaN or infinity"):
        nearest_neighbors(clean, dirty)
    with pytest.raises(ValueError, match="`bank` holds NaN or infinity"):
        NearestNeighborIndex(dirty)
    with pytest.raises(
        ValueError, match="row 33 of `queries` has fewer than `k` finite squared distances"
    ):
        nearest_neighbors(dirty, clean)


def test_distances_beyond_float32_are_errors(backend: torch.device) -> None:
    bank = torch.zeros(3, 4, device=backend)
    queries = torch.zeros(2, 4, device=backend)
    queries[1] = 1e20
    with pytest.raises(ValueError, match=r"row 1 of `queries` .* beyond the range of float32"):
        nearest_neighbors(queries, bank)
    bank[2] = 1e20
    # One neighbor in range is enough for k = 1, and not for k = 2.
    assert nearest_neighbors(queries[1:], bank)[1].tolist() == [[2]]
    with pytest.raises(ValueError, match="row 0 of `queries`"):
        nearest_neighbors(queries[1:], bank, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, "3 columns, `bank` has 4"),
        ((torch.zeros(2), torch.zeros(2, 4)), ValueError, r"`queries` has shape \[2\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 4, 1)), ValueError, r"`bank` has shape \[2, 4, 1\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 4), 0), ValueError, "`k` is 0, expected 1 to the 2"),
        ((torch.zeros(2, 4), torch.zeros(2, 4), 3), ValueError, "`k` is 3, expected 1 to the 2"),
        ((torch.zeros(2, 4).double(), torch.zeros(2, 4)), TypeError, "`queries` has dtype float64"),
        ((torch.zeros(2, 4), torch.zeros(2, 4).int()), TypeError, "`bank` has dtype int32"),
        (([[0.0]], torch.zeros(2, 1)), TypeError, "`queries` is a list, expected a torch tensor"),
        (
            (torch.zeros(2, 4), torch.zeros(2, 4, device="meta")),
            ValueError,
            "on cpu, `bank` on meta",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nearest_neighbors(*arguments)


def test_no_query_by_bank_matrix_is_held(
    isa: str, memory_taken: Callable[[Callable[[], object]], int]
) -> None:
    queries, bank = normal(12_000, 2), normal(12_000, 2, seed=1)
    nearest_neighbors(queries, bank[:10], num_threads=2)
    outputs = 12_000 * 12
    taken = memory_taken(lambda: nearest_neighbors(queries, bank, num_threads=2))
    assert taken < 64 * 2**20 + outputs  # the matrix would be 576 MB


@pytest.mark.parametrize("kind", [normal, lambda *shape: correlated(normal(*shape))])
def test_a_search_by_index_needs_little_memory(
    kind: Callable[[int, int], torch.Tensor],
    memory_taken: Callable[[Callable[[], object]], int],
) -> None:
    bank = kind(400_000, 40)
    NearestNeighborIndex(bank[:2000])  # what torch loads at first use
    made: list[NearestNeighborIndex] = []
    taken = memory_taken(lambda: made.append(NearestNeighborIndex(bank)))
    assert made[0].screen is not None
    assert taken < 64 * 2**20 + made[0].screen.numel()
    queries = bank[::200].clone()
    taken = memory_taken(lambda: nearest_neighbors(queries, made[0], 9, num_threads=2))
    assert taken < 16 * 2**20 + 9 * 12 * len(queries)


def test_an_index_survives_pickling() -> None:
    bank, queries = correlated(normal(3000, 64)), correlated(normal(200, 64, seed=1))
    index = NearestNeighborIndex(bank)
    again = pickle.loads(pickle.dumps(index))
    assert torch.equal(again.screen, index.screen)
    for found, expected in zip(
        nearest_neighbors(queries, again, 3), nearest_neighbors(queries, index, 3), strict=True
    ):
        assert torch.equal(found, expected)


def test_a_bank_has_at_most_2_31_rows() -> None:
    bank = torch.zeros(1, 1).expand(2**31, 1)
    with pytest.raises(ValueError, match="`bank` has 2147483648 rows"):
        NearestNeighborIndex(bank)
    with pytest.raises(ValueError, match="`bank` has 2147483648 rows"):
        nearest_neighbors(torch.zeros(1, 1), bank)


@pytest.mark.cuda
def test_cuda_work_is_queued_on_the_current_stream() -> None:
    queries, bank = normal(500, 64).cuda(), normal(2000, 64, seed=1).cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        found = nearest_neighbors(queries * 2, bank * 2)
    stream.synchronize()
    assert found[0].is_cuda
    assert_nearest(found, queries * 2, bank * 2)


@pytest.mark.cuda
@pytest.mark.parametrize("depth", [64, 128, 192, 384, 1024])
@pytest.mark.parametrize(("num_queries", "num_rows"), [(128, 256), (384, 1024), (1280, 5376)])
def test_cuda_group_maxima_are_within_their_bound(
    num_queries: int, num_rows: int, depth: int
) -> None:
    generator = torch.Generator("cuda").manual_seed(depth + num_rows)
    queries, bank = (
        torch.randn(rows, depth, device="cuda", generator=generator).half() + 0.5
        for rows in (num_queries, num_rows)
    )
    half_norms = bank.float().square().sum(dim=1) / 2
    half_norms[-3:] = 3e38  # as of padding

    def maxima(method: _C.GroupMaximaMethod) -> torch.Tensor:
        found = torch.full((num_rows // 64, num_queries), torch.nan, device="cuda")
        _C.group_maxima_cuda(
            *(queries.data_ptr(), bank.data_ptr(), half_norms.data_ptr()),
            *(num_queries, num_rows, depth, method, found.data_ptr()),
            torch.cuda.current_stream().cuda_stream,
        )
        return found

    exact = queries.double() @ bank.double().T - half_norms.double()
    expected = exact.unflatten(1, (-1, 64)).amax(dim=2).T
    query_norms = queries.double().norm(dim=1)
    row_norms = bank.double().norm(dim=1).unflatten(0, (-1, 64)).amax(dim=1)
    # As in csrc/ops/cuda/group_maxima.hpp.
    products = query_norms * row_norms[:, None] + row_norms[:, None].square()
    bound = (depth // 16 + 1) * 2**-18 * products
    methods = [_C.GroupMaximaMethod.mma]
    if _C.has_wgmma():
        methods.append(_C.GroupMaximaMethod.wgmma)
    for method in methods:
        error = (maxima(method).double() - expected).abs()
        assert bool((error <= bound).all()), (method, float((error / bound).max()))


@pytest.mark.cuda
@pytest.mark.parametrize("k", [1, 9, 32])
def test_cuda_screen_changes_nothing(k: int) -> None:
    latent = normal(30, 100, seed=3)
    bank = torch.relu(normal(20_000, 30) @ latent).cuda()
    queries = torch.relu(normal(3_000, 30, seed=1) @ latent).cuda()
    screened = nearest_neighbors(queries, NearestNeighborIndex(bank), k)
    plain = torch.ops.autopatch.nearest_neighbors(queries[:20], bank, None, k, True, 0)
    for found, expected in zip(screened, plain, strict=True):
        assert torch.equal(found[:20], expected)


@pytest.mark.cuda
def test_cuda_graph_of_a_search() -> None:
    queries, bank = normal(500, 40).cuda(), normal(9_000, 40, seed=1).cuda()
    index = NearestNeighborIndex(bank)
    nearest_neighbors(queries, index, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = nearest_neighbors(queries, index, 3)
    for seed in (2, 3):
        queries.copy_(normal(500, 40, seed=seed))
        graph.replay()
        assert_nearest(found, queries, bank, 3)


def test_an_index_may_change_while_another_thread_searches_it(
    at_every_instruction: Interrupt,
) -> None:
    """A search sees one state of the index, never the bank of one with the screen of another."""
    bank, queries = normal(400, 16), normal(20, 16, seed=1)
    larger = torch.cat([bank, queries + 0.01])
    states = [nearest_neighbors(queries, rows) for rows in (bank, larger)]
    index = NearestNeighborIndex(bank)

    def check(found: tuple[torch.Tensor, torch.Tensor]) -> None:
        assert any(all(map(torch.equal, found, state)) for state in states)

    def change() -> None:
        if len(index) == len(bank):
            index.add(larger[len(bank) :])
        else:
            index.remove(torch.arange(len(bank), len(larger)))

    def search() -> None:
        check(nearest_neighbors(queries, index))

    assert at_every_instruction(change, NearestNeighborIndex._set, search) > 10
    assert at_every_instruction(search, nearest_neighbors, change) > 10
