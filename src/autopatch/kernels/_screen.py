"""The screen of a bank: an 8-bit picture of it that tells which rows cannot be near a query.

csrc/ops/screen.hpp has the bound. Here the directions are chosen: rows are coded by their
coordinates along a few leading principal directions and the norm of the rest, as far as that is
cheaper than coding every feature.
"""

from __future__ import annotations

import torch

from autopatch import _C

_SAMPLE = 512  # rows that the directions are estimated from
_PROBES = 32  # of them, stand in for queries
_WIDTHS = (16, 32, 48, 64, 96, 128)  # multiples of 16
# Nanoseconds of one query, measured on a Zen 4 core at 3.7 GHz: only their ratio matters, and only
# for speed.
_OF_CODE = 0.005
_OF_ROW = 10.0  # a row that must be looked at,
_OF_FEATURE = 0.05  # and each of its features


def make_screen(bank: torch.Tensor, num_threads: int) -> torch.Tensor:
    """The screen of a finite bank `[N, D]` on the CPU, in one piece of memory, uint8."""
    rows, dim = bank.shape
    sample = bank[:: max(rows // _SAMPLE, 1)][:_SAMPLE]
    mean = sample.mean(dim=0)
    basis, basis_error = _basis(sample - mean)
    width = -(-dim // 4) * 4 if basis is None else basis.shape[1]
    screen = torch.empty(_C.screen_bytes(rows, dim, width, basis is not None), dtype=torch.uint8)
    _C.build_screen(
        bank.data_ptr(),
        rows,
        dim,
        mean.data_ptr(),
        0 if basis is None else basis.data_ptr(),
        width,
        basis_error,
        screen.data_ptr(),
        num_threads,
    )
    return screen


def _basis(centered: torch.Tensor) -> tuple[torch.Tensor | None, float]:
    """Directions for a sample of centred rows, `[D, width]` with a last column of zeros for the
    norm of the rest, and a bound of how far they are from orthonormal; None to code every feature.
    """
    rows, dim = centered.shape
    widths = [width for width in _WIDTHS if width <= min(dim, rows) // 2]
    largest = float(centered.abs().max()) if centered.numel() else 0.0
    if not widths or not 1e-15 < largest < 1e15:
        return None, 0.0
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(dim, widths[-1] - 1, generator=generator)
    for _ in range(2):  # subspace iteration; Halko, Martinsson & Tropp (2011)
        directions, _ = torch.linalg.qr(centered.T @ (centered @ directions))
    coordinates = centered @ directions
    _, rotation = torch.linalg.eigh(coordinates.T @ coordinates)
    rotation = rotation.flip(1)
    width = _cheapest(centered, coordinates @ rotation, widths)
    if width is None:
        return None, 0.0
    # Any directions of the same space bound the distance as well. Mixed ones have like ranges, and
    # the largest range sets the resolution of the codes.
    mix, _ = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=generator))
    basis = torch.zeros(dim, width)
    basis[:, :-1] = directions @ (rotation[:, : width - 1] @ mix)
    exact = basis[:, :-1].double()
    error = exact.T @ exact - torch.eye(width - 1, dtype=torch.float64)
    return basis, float(torch.linalg.matrix_norm(error))


def _cheapest(centered: torch.Tensor, coordinates: torch.Tensor, widths: list[int]) -> int | None:
    """The width that makes a query cheapest by the sample, None for all features."""
    rows, dim = centered.shape
    step = max(rows // _PROBES, 1)
    of_all = torch.cdist(centered[::step], centered)
    nearest = torch.where(of_all > 0, of_all, torch.inf).amin(dim=1, keepdim=True)
    norms = centered.square().sum(dim=1)
    costs: dict[int | None, float] = {None: _OF_CODE * dim}
    for width in widths:
        kept = coordinates[:, : width - 1]
        rest = (norms - kept.square().sum(dim=1)).clamp(min=0).sqrt()
        coded = torch.cat([kept, rest[:, None]], dim=1)
        # Codes of a mixed basis: their range is some four deviations, each way.
        resolution = 4 * float(kept.square().mean().sqrt()) / 127
        error = 2 * resolution * (width / 12) ** 0.5
        checked = float((torch.cdist(coded[::step], coded) <= nearest + error).float().mean())
        costs[width] = _OF_CODE * width + checked * (_OF_ROW + _OF_FEATURE * dim)
    return min(costs, key=lambda width: costs[width])
