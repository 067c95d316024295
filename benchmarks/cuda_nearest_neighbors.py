"""Times nearest_neighbors on a GPU beside torch and, if it is installed, CuPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from autopatch.kernels import NearestNeighborIndex, nearest_neighbors
from cuda_timing import Report, allow_tf32, correlated, median_milliseconds

# Queries, rows, features, neighbors, and whether the features resemble a network's.
WORK = (
    (200_000, 160_000, 128, 1, True),
    (200_000, 160_000, 384, 1, True),
    (200_000, 160_000, 1024, 1, True),
    (200_000, 160_000, 128, 9, True),
    (200_000, 160_000, 128, 1, False),
    (100_352, 20_000, 336, 1, True),
    (3_136, 20_000, 336, 1, True),
)
PEER_QUERIES = 24_576  # number of queries for the peers, whose time is extrapolated
CHUNK = 4096  # queries that the peers process at a time
CHECKED = 300  # queries compared with float64
TOLERANCE = 1e-5


def measure(report: Report) -> None:
    """Times every size."""
    for num_queries, num_rows, dim, k, like_a_network in WORK:
        kind = "" if like_a_network else ", Gaussian"
        work = f"{num_queries} queries, {num_rows} x {dim}, k = {k}{kind}"
        make = correlated if like_a_network else _gaussian
        queries, bank = make(num_queries, dim, seed=1), make(num_rows, dim)
        some = queries[:CHECKED].double()
        exact = torch.cdist(some, bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
        exact = exact.square().topk(k, dim=1, largest=False).values
        index = NearestNeighborIndex(bank)
        build = median_milliseconds([partial(NearestNeighborIndex, bank)], runs=3, warm_up=1)
        part = queries[:PEER_QUERIES]
        big = 2 * num_queries * num_rows * dim > 1e13
        for method, function, tf32, is_peer in [
            ("autopatch", partial(_ours, index=index, k=k), False, False),
            ("torch, float32", partial(_peer, bank=bank, k=k), False, True),
            ("torch, TF32", partial(_peer, bank=bank, k=k), True, True),
            ("torch.compile, TF32", _compiled(bank, k), True, True),
            ("CuPy, float32", partial(_cupy, bank=bank), False, True),
        ]:
            only_once = method.startswith(("torch.compile", "CuPy"))  # slow to compile
            if only_once and (dim, k, like_a_network) != (128, 1, True):
                continue
            taken = part if is_peer else queries
            with allow_tf32(tf32):
                try:
                    found = function(taken)[:CHECKED].double()
                    milliseconds = median_milliseconds(
                        [partial(function, taken)], runs=3 if big else 7, warm_up=1
                    )
                except Exception as problem:
                    if not is_peer:
                        raise
                    name = type(problem).__name__
                    _row(report, work, method, None, f"does not run: {name}", None)
                    continue
            error = float(((found - exact).abs() / exact.clamp(min=1e-30)).max())
            milliseconds *= num_queries / len(taken)
            rate = 2e-9 * num_queries * num_rows * dim / milliseconds
            note = f"{rate:.0f} TFLOP/s"
            if not is_peer:
                note += f", index built in {build:.1f} ms"
            _row(report, work, method, milliseconds, note, error, is_peer=is_peer)
            if not is_peer and not error <= TOLERANCE:
                raise AssertionError(f"{work}: differs from float64 by {error:.1e}")
        del queries, bank, index


def _row(
    report: Report,
    work: str,
    method: str,
    milliseconds: float | None,
    achieved: str,
    error: float | None,
    *,
    is_peer: bool = True,
) -> None:
    report(
        operator="nearest_neighbors",
        work=work,
        method=method,
        is_peer=is_peer,
        milliseconds=milliseconds,
        achieved=achieved,
        error=error,
    )


def _gaussian(rows: int, dim: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(rows, dim, device="cuda", generator=generator)


def _ours(queries: torch.Tensor, *, index: NearestNeighborIndex, k: int) -> torch.Tensor:
    return nearest_neighbors(queries, index, k)[0]


def _peer(queries: torch.Tensor, *, bank: torch.Tensor, k: int) -> torch.Tensor:
    """A matrix product and a minimum, chunk by chunk."""
    norms = bank.square().sum(dim=1)
    return torch.cat([_chunk(chunk, bank, norms, k) for chunk in queries.split(CHUNK)])


def _chunk(chunk: torch.Tensor, bank: torch.Tensor, norms: torch.Tensor, k: int) -> torch.Tensor:
    products = torch.addmm(norms, chunk, bank.t(), alpha=-2)
    if k == 1:
        nearest = products.amin(dim=1, keepdim=True)
    else:
        nearest = products.topk(k, dim=1, largest=False).values
    return nearest + chunk.square().sum(dim=1, keepdim=True)


def _cupy(queries: torch.Tensor, *, bank: torch.Tensor) -> torch.Tensor:
    import cupy

    rows = cupy.from_dlpack(bank)
    norms = cupy.square(rows).sum(axis=1)
    nearest = []
    for chunk in queries.split(CHUNK):
        values = cupy.from_dlpack(chunk)
        products = norms - 2 * (values @ rows.T)
        nearest.append(products.min(axis=1) + cupy.square(values).sum(axis=1))
    return torch.from_dlpack(cupy.concatenate(nearest))[:, None]


def _compiled(bank: torch.Tensor, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    norms = bank.square().sum(dim=1)
    chunk_of = torch.compile(_chunk, dynamic=False)

    def run(queries: torch.Tensor) -> torch.Tensor:
        return torch.cat([chunk_of(chunk, bank, norms, k) for chunk in queries.split(CHUNK)])

    return run
