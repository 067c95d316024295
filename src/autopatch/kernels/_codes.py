"""8-bit codes of rows. Distances between codes show which rows cannot be near each other.

csrc/ops/codes.hpp has the bound, csrc/ops/screen.hpp the search with codes. This module chooses
what to code: all features or, if that is cheaper, the coordinates along a few leading principal
directions and the norm of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from autopatch import _C

_SAMPLE = 512  # rows for estimating the directions
_CUDA_SAMPLE = 4096  # rows for estimating the range of codes on a GPU
_CUDA_LARGEST = 256.0  # largest value of a float16 screen, far from both ends of the range
_CUDA_ROWS_AT_A_TIME = 2**16  # rows centered at a time
_PROBES = 32  # rows of the sample used as queries
_WIDTHS = (16, 32, 48, 64, 96, 128)  # multiples of 16
_MIN_ROWS = 1024  # for fewer rows, directions cost more than they save

# Nanoseconds per query for each code, for each row whose distance is computed, and for each feature
# of such a row, on a Zen 4 core at 3.7 GHz. They affect only speed.
_OF_CODE = 0.005
_OF_ROW = 10.0
_OF_FEATURE = 0.05

# With fewer queries, or fewer pairs of query and row, a screen costs more than it saves.
_FEW_QUERIES = 64
_FEW_PAIRS = 2**21

# Working memory of a coreset in all, or per row if that is more. Without codes, a coreset of a
# million rows takes 15 times as long.
_CORESET_BYTES = 63 * 2**20
_CORESET_BYTES_PER_ROW = 120

# The native module reads float32 in host memory, whatever torch's default dtype and device are.
_FLOAT32: Any = {"dtype": torch.float32, "device": "cpu"}


def worth_a_screen(num_queries: int, bank: torch.Tensor) -> bool:
    """Whether making a screen pays off for a single search."""
    return num_queries > _FEW_QUERIES and num_queries * bank.shape[0] > _FEW_PAIRS


@dataclass(frozen=True)
class Coding:
    """Parameters that turn rows into 8-bit codes; see csrc/ops/codes.hpp.

    Attributes:
        mean: Mean row, `[D]`.
        basis: Directions `[D, width]`, the last column zero; None to code all features.
        width: Number of codes per row.
        basis_error: Upper bound on the deviation of `basis` from orthonormality.
    """

    mean: torch.Tensor
    basis: torch.Tensor | None
    width: int
    basis_error: float

    @property
    def basis_address(self) -> int:
        return 0 if self.basis is None else self.basis.data_ptr()


def choose_coding(rows: torch.Tensor, max_width: int | None = None) -> Coding:
    """The coding that makes a search among rows `[N, D]` cheapest, with at most `max_width` codes
    (at least 16; `_C.max_screen_width` if None)."""
    count, dim = rows.shape
    sample = rows[:: max(count // _SAMPLE, 1)][:_SAMPLE]
    mean = sample.mean(dim=0)
    most = _C.max_screen_width if max_width is None else max_width
    with torch.autocast("cpu", enabled=False):  # the basis is read as float32
        basis = _basis(sample - mean, count, most)
    if basis is None:
        return Coding(mean, None, -(-dim // 4) * 4, 0.0)
    return Coding(mean, basis, basis.shape[1], _deviation(basis[:, :-1]))


def least_width(count: int, dim: int) -> int:
    """The fewest codes that a row of a bank `[count, dim]` can have."""
    all_features = -(-dim // 4) * 4
    if count < _MIN_ROWS and all_features <= _C.max_screen_width:
        return all_features
    return min(all_features, _WIDTHS[0])


def coreset_coding(features: torch.Tensor, count: int) -> Coding | None:
    """The coding for a greedy coreset of `count` rows; None if it would cost more than it saves or
    take too much memory."""
    rows = features.shape[0]
    if not worth_a_screen(count, features):
        return None
    working_memory = max(_CORESET_BYTES, _CORESET_BYTES_PER_ROW * rows + 40 * count)
    max_width = _C.coreset_width_within(working_memory, rows, count) // 16 * 16
    if max_width < _WIDTHS[0]:
        return None
    return choose_coding(features, min(max_width, _C.max_screen_width))


def cuda_codes(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Center `[D]` and inverse scale `[1]` of the 8-bit codes of a coreset on a GPU, on that GPU
    (see csrc/ops/cuda/greedy_coreset.cu). The host does not wait for the device."""
    sample = features[:: max(len(features) // _CUDA_SAMPLE, 1)]
    center = sample.mean(dim=0)
    largest = (sample - center).abs().amax() if features.shape[1] else center.new_ones(())
    return center, (127 / largest.clamp(1e-30, 1e30)).reshape(1)


def cuda_rounding(bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parameters for rounding a bank `[N, D]` to float16: row order `[N]`, center `[D]`, scale
    `[1]`. Rows are ordered by norm, because rows of similar norm have similar rounding errors."""
    # If the mean overflows float32, any center works.
    center = bank.mean(dim=0).nan_to_num(0.0)
    norms, largest = [], [center.new_zeros(())]
    for part in bank.split(_CUDA_ROWS_AT_A_TIME):
        centered = part - center
        norms.append(torch.linalg.vector_norm(centered, dim=1))
        if centered.numel():
            largest.append(centered.abs().amax())
    scale = _CUDA_LARGEST / torch.stack(largest).amax().clamp(1e-30, 1e30)
    return torch.sort(torch.cat(norms), stable=True).indices, center, scale.reshape(1)


def make_cuda_screen(bank: torch.Tensor) -> torch.Tensor:
    """The screen of a finite, contiguous bank `[N, D]` on a GPU, uint8 (see
    csrc/ops/cuda/nearest_neighbors.cu). The host does not wait for the device."""
    with torch.cuda.device_of(bank):
        order, center, scale = cuda_rounding(bank)
        rows, dim = bank.shape
        size = _C.screen_bytes_cuda(rows, dim)
        screen = torch.empty(size, dtype=torch.uint8, device=bank.device)
        _C.build_screen_cuda(
            bank.data_ptr(),
            rows,
            dim,
            order.data_ptr(),
            center.data_ptr(),
            scale.data_ptr(),
            screen.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return screen


def make_screen(bank: torch.Tensor, num_threads: int) -> torch.Tensor:
    """The screen of a finite, contiguous bank `[N, D]` on the CPU, uint8.

    It depends on `num_threads` only through the rounding of torch's matrix products. That changes
    bounds, never search results.
    """
    rows, dim = bank.shape
    coding = choose_coding(bank)
    projects = coding.basis is not None
    size = _C.screen_bytes(rows, dim, coding.width, projects)
    screen = torch.empty(size, dtype=torch.uint8, device="cpu")
    _C.build_screen(
        bank.data_ptr(),
        rows,
        dim,
        coding.mean.data_ptr(),
        coding.basis_address,
        coding.width,
        coding.basis_error,
        screen.data_ptr(),
        num_threads,
    )
    return screen


def _deviation(directions: torch.Tensor) -> float:
    """Upper bound on the deviation of directions from orthonormality."""
    exact = directions.double()
    identity = torch.eye(exact.shape[1], dtype=torch.float64, device="cpu")
    return float(torch.linalg.matrix_norm(exact.T @ exact - identity))


def _basis(centered: torch.Tensor, rows: int, max_width: int) -> torch.Tensor | None:
    """Directions `[D, width]` for a bank of `rows` rows; None to code all features. The last column
    is zero: its code is the norm of the rest.

    Args:
        centered: A sample of the rows, with mean zero.
        rows: Number of rows in the bank.
        max_width: Upper limit of the width.
    """
    dim = centered.shape[1]
    may_code_all = -(-dim // 4) * 4 <= max_width
    most = min(dim // 2, len(centered) // 2, max_width)
    widths = [width for width in _WIDTHS if width <= most]
    largest = float(centered.abs().max()) if centered.numel() else 0.0
    worth_it = rows >= _MIN_ROWS and widths and 1e-10 < largest < 1e15
    if not worth_it:
        return None if may_code_all else _with_column(torch.eye(dim, _WIDTHS[0] - 1, **_FLOAT32))
    generator = torch.Generator("cpu").manual_seed(0)
    directions = torch.randn(dim, widths[-1] - 1, generator=generator, **_FLOAT32)
    for _ in range(2):  # subspace iteration; Halko, Martinsson & Tropp (2011)
        directions, _ = torch.linalg.qr(centered.T @ (centered @ directions))
    coordinates = centered @ directions
    _, rotation = torch.linalg.eigh(coordinates.T @ coordinates)
    rotation = rotation.flip(1)
    width = _cheapest(centered, coordinates @ rotation, widths, may_code_all)
    if width is None:
        return None
    # Any basis of the same space gives an equally good bound. Mixed directions have similar ranges,
    # and the largest range sets the resolution of the codes.
    mix, _ = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=generator, **_FLOAT32))
    return _with_column(directions @ (rotation[:, : width - 1] @ mix))


def _with_column(directions: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(directions, (0, 1))


def _cheapest(
    centered: torch.Tensor, coordinates: torch.Tensor, widths: list[int], may_code_all: bool
) -> int | None:
    """The width that makes a query cheapest, estimated on the sample; None to code all features."""
    rows, dim = centered.shape
    step = max(rows // _PROBES, 1)
    of_all = torch.cdist(centered[::step], centered)
    nearest = torch.where(of_all > 0, of_all, torch.inf).amin(dim=1, keepdim=True)
    norms = centered.square().sum(dim=1)
    costs: dict[int | None, float] = {}
    if may_code_all:
        costs[None] = _OF_CODE * dim
    for width in widths:
        kept = coordinates[:, : width - 1]
        rest = (norms - kept.square().sum(dim=1)).clamp(min=0).sqrt()
        coded = torch.cat([kept, rest[:, None]], dim=1)
        # The codes of a mixed basis cover about four standard deviations each way.
        resolution = 4 * float(kept.square().mean().sqrt()) / 127
        error = 2 * resolution * (width / 12) ** 0.5
        checked = float((torch.cdist(coded[::step], coded) <= nearest + error).float().mean())
        costs[width] = _OF_CODE * width + checked * (_OF_ROW + _OF_FEATURE * dim)
    return min(costs, key=lambda width: costs[width])
