from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from autopatch.kernels import _codes, greedy_coreset, reference

SIZES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100)
DIMS = (1, 3, 15, 16, 17, 32, 33, 50)
ROWS_FOR_THREE_THREADS = 6500  # some rounds of many panels


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(
    found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]
) -> None:
    assert found[0].dtype == torch.int64
    assert found[1].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.fixture(autouse=True, params=[True, False], ids=["codes", "no codes"])
def codes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Rows are screened by 8-bit codes, however few they are, or not at all."""
    monkeypatch.setattr(_codes, "worth_a_screen", lambda *_args: request.param)
    return bool(request.param)


@pytest.mark.parametrize("dim", DIMS)
def test_equals_the_reference_bit_for_bit(isa: str, dim: int) -> None:
    for rows in SIZES:
        features = normal(rows, dim, seed=rows)
        expected = reference.greedy_coreset(features, rows, start=rows // 2)
        assert_same(greedy_coreset(features, rows, start=rows // 2), expected)


@pytest.fixture(
    scope="module",
    params=[(20, 0.0, None), (7, 100.0, None), (3, 0.0, 0), (64, 0.0, 1)],
    ids=["normal", "far offset", "whole numbers", "tenths"],
)
def many_rows(request: pytest.FixtureRequest) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Features for three threads, and the reference's 60 picks."""
    dim, offset, decimals = request.param
    features = normal(ROWS_FOR_THREE_THREADS, dim) + offset
    if decimals is not None:  # many equal distances
        features = features.round(decimals=decimals)
    return features, reference.greedy_coreset(features, 60, start=17)


def test_threads_do_not_change_the_result(
    isa: str, many_rows: tuple[torch.Tensor, tuple[torch.Tensor, ...]]
) -> None:
    features, expected = many_rows
    for threads in (1, 2, 3):
        assert_same(greedy_coreset(features, 60, start=17, num_threads=threads), expected)


def correlated(rows: int, dim: int) -> torch.Tensor:
    """Clustered rows of few factors: coded by leading directions."""
    factors = dim // 8
    centers = normal(20, factors, seed=1)
    latent = centers.repeat(rows // 20, 1) + 0.3 * normal(rows, factors, seed=2)
    return torch.relu(latent @ normal(factors, dim, seed=3))


def with_outliers(rows: int, dim: int, scale: float) -> torch.Tensor:
    features = correlated(rows, dim)
    features[::150] *= scale
    features[7, 5] = -scale
    return features


HARD: dict[str, Callable[[], torch.Tensor]] = {
    "correlated": lambda: correlated(2400, 160),
    "correlated, shifted by 100": lambda: correlated(2400, 160) + 100,
    "Gaussian": lambda: normal(1300, 130),
    "outliers": lambda: with_outliers(2400, 160, 100.0),
    "outliers beyond the codes": lambda: with_outliers(2400, 160, 1e9),
    "outliers beyond float32's squares": lambda: with_outliers(2400, 160, 1e25),
    "few distinct rows": lambda: correlated(200, 96).round().repeat(12, 1),
    "duplicated beside others": lambda: torch.cat([correlated(1200, 96)] * 2),
    "constant features": lambda: correlated(2400, 64) * (torch.arange(64) % 3 == 0) + 7,
    "one feature": lambda: normal(2000, 1),
    "one feature of whole numbers": lambda: (normal(2000, 1) * 10).round(),
    "subnormal": lambda: correlated(1300, 64) * 1e-40,
    "squares vanish": lambda: correlated(1300, 64) * 1e-23,
    "huge": lambda: correlated(1300, 64) * 1e18,
}


@pytest.fixture(scope="module", params=HARD)
def hard(request: pytest.FixtureRequest) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Features, and the reference's 150 picks."""
    features = HARD[request.param]()
    return features, reference.greedy_coreset(features, 150, start=11)


def test_hard_data_equal_the_reference(
    isa: str, hard: tuple[torch.Tensor, tuple[torch.Tensor, ...]]
) -> None:
    features, expected = hard
    for threads in (1, 2):
        assert_same(greedy_coreset(features, 150, start=11, num_threads=threads), expected)


def test_all_of_few_distinct_rows(isa: str) -> None:
    features = correlated(40, 64).repeat(4, 1)
    expected = reference.greedy_coreset(features, 160, start=3)
    assert_same(greedy_coreset(features, 160, start=3), expected)


def test_codes_stay_within_their_memory(codes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not codes:
        assert _codes.coreset_coding(normal(10, 4), 5) is None
        return
    features = correlated(2400, 160)
    widths = []
    expected = reference.greedy_coreset(features, 100, start=0)
    for a_row in (1000, 100, 80, 79):  # bytes
        monkeypatch.setattr(_codes, "_CORESET_BYTES_PER_ROW", 0)
        monkeypatch.setattr(_codes, "_CORESET_BYTES", (52 + a_row) * 2400 + (a_row // 2 + 4) * 100)
        coding = _codes.coreset_coding(features, 100)
        widths.append(0 if coding is None else coding.width)
        assert_same(greedy_coreset(features, 100, start=0), expected)
    assert widths[0] >= widths[1] >= widths[2] >= widths[3]
    assert widths[1] <= 48


def test_large_magnitudes_equal_the_reference(isa: str) -> None:
    for scale in (1e-25, 1e18, 1e25):  # squares vanish, nearly overflow, and do
        features = normal(100, 21) * scale
        expected = reference.greedy_coreset(features, 100, start=0)
        assert_same(greedy_coreset(features, 100, start=0), expected)
    assert expected[1].isinf().any()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_identical_rows_are_picked_once_each(isa: str, threads: int) -> None:
    features = normal(1, 18).repeat(ROWS_FOR_THREE_THREADS, 1)
    indices, radii = greedy_coreset(features, 300, start=5, num_threads=threads)
    expected = [5, *(i for i in range(300) if i != 5)][:300]
    assert indices.tolist() == expected
    assert (radii == 0).all()


def test_each_pick_is_the_farthest_row(isa: str) -> None:
    # Whole numbers: every distance is exact, so the rule can be derived again in float64.
    features = (normal(400, 6) * 3).round()
    indices, radii = greedy_coreset(features, 60, start=3)
    rows = features.double()
    distances = torch.full((400,), torch.inf, dtype=torch.float64)
    for i, pick in enumerate(indices.tolist()):
        if i > 0:
            farthest = int((distances == distances.max()).nonzero()[0])
            assert pick == farthest
        distances = torch.minimum(distances, (rows - rows[pick]).square().sum(dim=1))
        assert float(radii[i]) == pytest.approx(float(distances.max().sqrt()), rel=1e-6)
    assert (radii.diff() <= 0).all()


def test_radii_cover_every_row(isa: str) -> None:
    features = normal(1000, 40)
    indices, radii = greedy_coreset(features, 100)
    nearest = torch.cdist(features.double(), features[indices].double()).min(dim=1).values
    assert float(nearest.max()) == pytest.approx(float(radii[-1]), rel=1e-5)


def test_all_rows_are_a_permutation(isa: str) -> None:
    features = normal(200, 10)
    indices, radii = greedy_coreset(features, 200)
    assert indices.sort().values.tolist() == list(range(200))
    assert radii[-1] == 0
    assert (radii[:-1] > 0).all()


def test_fewer_picks_are_the_beginning_of_more() -> None:
    features = normal(500, 8)
    many = greedy_coreset(features, 100, start=9)
    few = greedy_coreset(features, 10, start=9)
    assert_same(few, (many[0][:10], many[1][:10]))
    assert few[0][0] == 9


def test_the_seed_draws_the_start() -> None:
    features = normal(500, 8)
    starts = [int(greedy_coreset(features, 1, seed=seed)[0]) for seed in range(20)]
    assert starts == [int(greedy_coreset(features, 1, seed=seed)[0]) for seed in range(20)]
    assert len(set(starts)) > 10
    assert_same(greedy_coreset(features, 30, seed=4), greedy_coreset(features, 30, start=starts[4]))
    before = torch.get_rng_state()
    greedy_coreset(features, 5)
    assert torch.equal(before, torch.get_rng_state())


def test_too_many_rows_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"`features` has 2147483648 rows, expected at most 2147483647"
    ):
        greedy_coreset(torch.zeros(1, 1).expand(2**31, 1), 1)


def test_smallest_sizes() -> None:
    indices, radii = greedy_coreset(torch.ones(1, 3), 1)
    assert (indices.tolist(), radii.tolist()) == ([0], [0.0])
    # Without features all rows are alike.
    indices, radii = greedy_coreset(torch.ones(4, 0), 4, start=2)
    assert (indices.tolist(), radii.tolist()) == ([2, 0, 1, 3], [0.0] * 4)
    with pytest.raises(ValueError, match="`count` is 1, expected 1 to the 0 rows"):
        greedy_coreset(torch.ones(0, 3), 1)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: x.repeat_interleave(2, dim=0)[::2],
        lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    ],
    ids=["transposed", "every other row", "some columns"],
)
def test_layout_does_not_matter(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    features = view(normal(90, 21))
    assert not features.is_contiguous()
    assert_same(
        greedy_coreset(features, 40, start=0),
        greedy_coreset(features.contiguous(), 40, start=0),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(dtype: torch.dtype) -> None:
    features = normal(90, 21).to(dtype)
    assert_same(
        greedy_coreset(features, 40, start=0), greedy_coreset(features.float(), 40, start=0)
    )


def test_numpy_in_numpy_out() -> None:
    features = normal(90, 21)
    expected = greedy_coreset(features, 40, start=0)
    indices, radii = greedy_coreset(features.numpy(), 40, start=0)
    assert isinstance(indices, np.ndarray)
    assert isinstance(radii, np.ndarray)
    np.testing.assert_array_equal(indices, expected[0].numpy())
    np.testing.assert_array_equal(radii, expected[1].numpy())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_that_are_not_finite_are_errors(isa: str, value: float, threads: int) -> None:
    for place in ((0, 0), (89, 20), (33, 16)):
        features = normal(90, 21)
        features[place] = value
        with pytest.raises(ValueError, match="`features` holds NaN or infinity"):
            greedy_coreset(features, 4, num_threads=threads)


@pytest.mark.parametrize(
    ("features", "options", "error", "message"),
    [
        (torch.zeros(3), {"count": 1}, ValueError, r"`features` has shape \[3\]"),
        (torch.zeros(3, 2).double(), {"count": 1}, TypeError, "`features` has dtype float64"),
        (torch.zeros(3, 2), {"count": 0}, ValueError, "`count` is 0, expected 1 to the 3 rows"),
        (torch.zeros(3, 2), {"count": 4}, ValueError, "`count` is 4, expected 1 to the 3 rows"),
        (torch.zeros(3, 2), {"count": 1, "start": 3}, ValueError, "`start` is 3, expected 0 to 2"),
        (torch.zeros(3, 2), {"count": 1, "start": -1}, ValueError, "`start` is -1"),
        (torch.zeros(3, 2), {"count": 1, "num_threads": 0}, ValueError, "`num_threads` is 0"),
    ],
)
def test_wrong_arguments_are_named(
    features: torch.Tensor, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        greedy_coreset(features, **options)


@pytest.mark.cuda
@pytest.mark.parametrize("dim", DIMS)
def test_cuda_equals_the_reference_bit_for_bit(dim: int) -> None:
    for rows in SIZES:
        features = normal(rows, dim, seed=rows)
        expected = reference.greedy_coreset(features, rows, start=rows // 2)
        assert_same(on_cuda(features, rows, start=rows // 2), expected)


@pytest.mark.cuda
def test_cuda_equals_the_reference_on_many_rows(
    many_rows: tuple[torch.Tensor, tuple[torch.Tensor, ...]],
) -> None:
    features, expected = many_rows
    assert_same(on_cuda(features, 60, start=17), expected)


@pytest.mark.cuda
def test_cuda_equals_the_reference_on_hard_data(
    hard: tuple[torch.Tensor, tuple[torch.Tensor, ...]],
) -> None:
    features, expected = hard
    assert_same(on_cuda(features, 150, start=11), expected)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("rows", "dim", "count"),
    [(160_000, 128, 400), (500_000, 128, 60), (50_000, 384, 300), (3_000, 2048, 3_000)],
    ids=["in shared memory", "in device memory", "wide", "all"],
)
def test_cuda_equals_the_cpu(rows: int, dim: int, count: int) -> None:
    features = correlated(rows, dim)
    assert_same(on_cuda(features, count, start=5), greedy_coreset(features, count, start=5))


@pytest.mark.cuda
@pytest.mark.parametrize("scale", [1e-38, 1e-22, 1e18, 1e20])
def test_cuda_large_and_small_magnitudes(scale: float) -> None:
    features = normal(500, 20) * scale
    assert_same(on_cuda(features, 50, start=3), reference.greedy_coreset(features, 50, start=3))


@pytest.mark.cuda
def test_cuda_work_is_queued_on_the_current_stream() -> None:
    features = normal(5_000, 40)
    expected = reference.greedy_coreset(2 * features, 50, start=3)
    on_device = features.cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        on_device *= 2
        found = greedy_coreset(on_device, 50, start=3)
    stream.synchronize()
    assert_same((found[0].cpu(), found[1].cpu()), expected)


@pytest.mark.cuda
def test_cuda_graph_of_a_coreset() -> None:
    features = normal(5_000, 40).cuda()
    greedy_coreset(features, 50, start=3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = greedy_coreset(features, 50, start=3)
    for seed in (1, 2):
        features.copy_(normal(5_000, 40, seed=seed))
        graph.replay()
        expected = reference.greedy_coreset(features.cpu(), 50, start=3)
        assert_same((found[0].cpu(), found[1].cpu()), expected)


@pytest.mark.cuda
def test_cuda_refuses_what_the_cpu_refuses() -> None:
    with pytest.raises(ValueError, match="`features` holds NaN or infinity"):
        greedy_coreset(torch.full((3, 2), torch.nan, device="cuda"), 1)
    with pytest.raises(ValueError, match="`features` has 20000 columns"):
        greedy_coreset(torch.zeros(3, 20_000, device="cuda"), 1)


def on_cuda(features: torch.Tensor, count: int, *, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    indices, radii = greedy_coreset(features.cuda(), count, start=start)
    assert indices.is_cuda
    assert radii.is_cuda
    return indices.cpu(), radii.cpu()
