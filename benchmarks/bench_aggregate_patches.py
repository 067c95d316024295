"""Benchmarks of patch aggregation.

The floor is the longer of two times: writing all output, and copying as many bytes as are read and
written. Most of the bytes are output, so writing alone can take longer. On two cores of an AMD EPYC
(Zen 4), the peer that reuses its output takes 8 to 16 times as long as writing alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autopatch.kernels import aggregate_patches, reference

IMAGES = 32
SIZES = (56, 28, 14, 7)
SMALLEST = (24, 40, 112, 160)  # channels per level of the smallest network in the search space
LARGEST = (40, 48, 136, 192)
SLOW_PEER_ROUNDS = 3
PEER_ROUNDS = 5
ROUNDS = 15
TOLERANCE = 1e-5  # for normally distributed values; torch rounds sampling positions to float32


@dataclass
class Problem:
    """Maps to aggregate.

    Attributes:
        maps: The maps, in the memory layout of the backbone's output.
        patch_sizes: Patch size of each map.
        target: Ratio to the best peer.
        out: Output; None to allocate it in every call.
        expected: Result of the reference in float64.
        rows: First result of autopatch. Every ISA level and thread count must give the same.
    """

    maps: list[torch.Tensor]
    patch_sizes: tuple[int, ...]
    target: float
    out: torch.Tensor | None
    expected: torch.Tensor
    rows: torch.Tensor | None = field(default=None)

    @property
    def task(self) -> dict[str, Any]:
        images, _, height, width = self.maps[0].shape
        patch_sizes = sorted(set(self.patch_sizes))
        sizes = str(patch_sizes[0]) if len(patch_sizes) == 1 else str(self.patch_sizes)
        layout = "NCHW" if self.maps[0].is_contiguous() else "channels_last"
        read = sum(m.numel() for m in self.maps)
        written = self.expected.numel()
        # The system fills fresh pages with zeros first.
        zeroed = written if self.out is None else 0
        return {
            "group": f"aggregate_patches: {images} images, {len(self.maps)} {layout} maps, "
            f"{height} x {width}, {self.expected.shape[1]} channels, patch size {sizes}, "
            f"into {'fresh memory' if self.out is None else '`out`'}",
            "work": 4e-9 * (read + written),
            "unit": "GB/s",
            "floor": {
                "copy": 4e-9 * (read + written + zeroed),
                "write": 4e-9 * (written + zeroed),
            },
            "data": "normally distributed; the time does not depend on the values",
            "target": self.target,
        }

    def check(self, rows: torch.Tensor) -> None:
        assert rows.shape == self.expected.shape
        for some, expected in zip(rows.chunk(IMAGES), self.expected.chunk(IMAGES), strict=True):
            assert float((some - expected).abs().max()) < TOLERANCE

    def check_ours(self, rows: torch.Tensor) -> None:
        if self.rows is None:
            self.check(rows)
            self.rows = rows.clone()
        assert torch.equal(rows, self.rows)


@functools.lru_cache(maxsize=1)  # problems that differ only in layout or `out` are consecutive
def maps_and_rows(
    channels: tuple[int, ...], patch_sizes: tuple[int, ...]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(IMAGES, c, size, size, generator=generator)
        for c, size in zip(channels, SIZES, strict=True)
    ]
    images = zip(*(m.double().split(1) for m in maps), strict=True)
    return maps, torch.cat([reference.aggregate_patches(i, patch_sizes).float() for i in images])


def normal(
    channels: tuple[int, ...],
    patch_sizes: tuple[int, ...],
    target: float,
    *,
    layout: torch.memory_format = torch.contiguous_format,
    fresh: bool = False,
) -> Problem:
    maps, expected = maps_and_rows(channels, patch_sizes)
    maps = [m.contiguous(memory_format=layout) for m in maps]
    out = None if fresh else torch.zeros_like(expected)
    return Problem(maps, patch_sizes, target, out, expected)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "c336": lambda: normal(SMALLEST, (3, 3, 3, 3), 12.0),
    "c336_nhwc": lambda: normal(SMALLEST, (3, 3, 3, 3), 12.0, layout=torch.channels_last),
    "c336_fresh": lambda: normal(SMALLEST, (3, 3, 3, 3), 4.0, fresh=True),
    "c416": lambda: normal(LARGEST, (3, 3, 3, 3), 12.0),
    "c416_nhwc": lambda: normal(LARGEST, (3, 3, 3, 3), 12.0, layout=torch.channels_last),
    "c416_fresh": lambda: normal(LARGEST, (3, 3, 3, 3), 4.0, fresh=True),
    "p1": lambda: normal(SMALLEST, (1, 1, 1, 1), 10.0),
    "p1_nhwc": lambda: normal(SMALLEST, (1, 1, 1, 1), 10.0, layout=torch.channels_last),
    "p2486": lambda: normal(SMALLEST, (2, 4, 8, 6), 10.0),
    "p2486_nhwc": lambda: normal(SMALLEST, (2, 4, 8, 6), 10.0, layout=torch.channels_last),
    "p9533": lambda: normal(SMALLEST, (9, 5, 3, 3), 10.0),
    "p9533_nhwc": lambda: normal(SMALLEST, (9, 5, 3, 3), 10.0, layout=torch.channels_last),
    "p15": lambda: normal(SMALLEST, (15, 15, 15, 15), 10.0),
    "p15_nhwc": lambda: normal(SMALLEST, (15, 15, 15, 15), 10.0, layout=torch.channels_last),
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]()


def in_channels_last(
    maps: list[torch.Tensor], patch_sizes: tuple[int, ...], out: torch.Tensor | None
) -> torch.Tensor:
    """The reference's operations in torch's fastest form, on vectors of channels."""
    height, width = maps[0].shape[2:]
    rows = []
    for feature_map, p in zip(maps, patch_sizes, strict=True):
        m = feature_map.contiguous(memory_format=torch.channels_last)
        if p > 1:
            m = F.avg_pool2d(m, p, stride=1, padding=(p - 1) // 2)
        if m.shape[2:] != (height, width):
            m = F.interpolate(m, size=(height, width), mode="bilinear", align_corners=False)
        rows.append(m.permute(0, 2, 3, 1).flatten(0, 2))
    return torch.cat(rows, dim=1, out=out)


def bench_torch(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    """The reference."""

    def aggregate() -> torch.Tensor:
        return reference.aggregate_patches(problem.maps, problem.patch_sizes)

    problem.check(aggregate())
    measure(aggregate, rounds=SLOW_PEER_ROUNDS, **problem.task)


def bench_torch_channels_last(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    def aggregate() -> torch.Tensor:
        return in_channels_last(problem.maps, problem.patch_sizes, None)

    problem.check(aggregate())
    problem.check(measure(aggregate, rounds=PEER_ROUNDS, **problem.task))


def bench_torch_channels_last_out(
    problem: Problem, measure: Callable[..., Any], threads: int
) -> None:
    """Reuses the output, which saves torch the page faults of its largest tensor, about two fifths
    of its time."""
    if problem.out is None:
        pytest.skip("without `out`")

    def aggregate() -> torch.Tensor:
        return in_channels_last(problem.maps, problem.patch_sizes, problem.out)

    problem.check(aggregate())
    problem.check(measure(aggregate, rounds=PEER_ROUNDS, **problem.task))


def bench_torch_compile(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    if problem.out is not None or problem.expected.shape[1] != sum(SMALLEST):
        pytest.skip("compiling takes long: measured once only, with fresh memory")
    torch.compiler.reset()  # the thread count is compiled in
    compiled = torch.compile(in_channels_last)

    def aggregate() -> torch.Tensor:
        rows: torch.Tensor = compiled(problem.maps, problem.patch_sizes, None)
        return rows

    try:
        rows = aggregate()
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
    problem.check(rows)
    problem.check(measure(aggregate, rounds=SLOW_PEER_ROUNDS, **problem.task))


def bench_autopatch(problem: Problem, measure: Callable[..., Any], isa: str, threads: int) -> None:
    if isa == "avx512_vnni":
        pytest.skip("same code as avx512")

    def aggregate() -> torch.Tensor:
        rows: torch.Tensor = aggregate_patches(
            problem.maps, problem.patch_sizes, out=problem.out, num_threads=threads
        )
        return rows

    problem.check_ours(aggregate())
    problem.check_ours(measure(aggregate, rounds=ROUNDS, **problem.task))
