from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import pytest
import torch

import autopatch.kernels  # noqa: F401  (registers the operators)

SCORE_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)

Problem = tuple[torch.Tensor, torch.Tensor, list[int]]


def measure(
    library: ctypes.CDLL, scores: torch.Tensor, masks: torch.Tensor, types: list[int]
) -> list[float]:
    """The five metrics and the error."""
    scores, masks = scores.contiguous(), masks.contiguous()
    type_indices = torch.tensor(types, dtype=torch.int32)
    num_types = num_types_of(types)
    score_type = SCORE_TYPES.index(scores.dtype)
    library.pixel_metrics_workspace.restype = ctypes.c_int64
    size = library.pixel_metrics_workspace(score_type, ctypes.c_int64(scores.numel()), num_types)
    workspace = torch.full((size + 256,), 255, dtype=torch.uint8)
    workspace = workspace[-workspace.data_ptr() % 256 :]
    before_end = workspace[size:].clone()
    out = torch.full((6,), -7.0, dtype=torch.float64)

    def address(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    library.pixel_metrics(
        *(address(scores), score_type, address(masks)),
        *(ctypes.c_int64(length) for length in scores.shape),
        *(address(type_indices), num_types, address(workspace), address(out)),
    )
    assert torch.equal(workspace[size:], before_end)
    values: list[float] = out.tolist()
    return values


def num_types_of(types: list[int]) -> int:
    return max(1, 1 + max(types, default=0))


def assert_agrees(
    library: ctypes.CDLL, scores: torch.Tensor, masks: torch.Tensor, types: list[int]
) -> None:
    found = measure(library, scores, masks, types)
    expected = torch.ops.autopatch.pixel_metrics(
        scores, masks, torch.tensor(types, dtype=torch.int32), num_types_of(types), 1
    ).tolist()
    assert found[5] == 0
    for value, right in zip(found, expected, strict=False):
        both_nan = math.isnan(value) and math.isnan(right)
        assert both_nan or math.isclose(value, right, rel_tol=1e-12, abs_tol=1e-12)


def spiral(size: int) -> torch.Tensor:
    """One arm of one pixel's width."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for turn in range(size):
        for _ in range(size - 1 - turn // 2 * 2 if turn else size - 1):
            ahead = (y + 2 * dy, x + 2 * dx)
            inside = 0 <= y + dy < size and 0 <= x + dx < size
            if not inside or (max(ahead) < size and min(ahead) >= 0 and mask[ahead]):
                break
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask


def comb(size: int) -> torch.Tensor:
    """Teeth that meet in the last row alone."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def corners(size: int) -> torch.Tensor:
    """Zigzags that touch at corners, from both sides."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (x + y) % 6 == 0


def rings(size: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    center = (size - 1) / 2
    return torch.maximum((y - center).abs(), (x - center).abs()).long() % 2 == 1


def checkerboard(size: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (x + y) % 2 == 0


def random_mask(size: int, density: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.rand(size, size, generator=generator) < density


def stripes(size: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[::3] = True
    mask[:, 0] = False
    return mask


def single(size: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[0, 0] = mask[-1, -1] = mask[0, -1] = mask[size // 2, 3] = True
    return mask


SIZE = 21
MASKS: dict[str, torch.Tensor] = {
    "spiral": spiral(SIZE),
    "comb": comb(SIZE),
    "comb, turned": comb(SIZE).flip(0),
    "corners": corners(SIZE),
    "corners, mirrored": corners(SIZE).flip(1),
    "rings": rings(SIZE),
    "checkerboard": checkerboard(SIZE),
    "sparse": random_mask(SIZE, 0.1),
    "half": random_mask(SIZE, 0.4),
    "dense": random_mask(SIZE, 0.8),
    "stripes": stripes(SIZE),
    "single pixels": single(SIZE),
    "full": torch.ones(SIZE, SIZE, dtype=torch.bool),
    "one wide": random_mask(SIZE, 0.5).reshape(-1, 1),
    "one high": random_mask(SIZE, 0.5).reshape(1, -1),
}
HARD_SCORES = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45, 3e38, -3e38, 1, 0.5])


def scores_of(kind: str, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(kind))
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "constant":
        noise = torch.full(shape, 0.5, dtype=torch.float64)
    elif kind == "tied":
        noise = noise.round()
    elif kind == "hard" and dtype != torch.uint8:
        picks = torch.randint(len(HARD_SCORES), shape, generator=generator)
        noise = HARD_SCORES.double()[picks]
    elif kind == "crowded":
        noise = 1 + 1e-6 * noise
        noise.view(-1)[0], noise.view(-1)[-1] = -1e30, 1e30
    if dtype == torch.uint8:
        return (noise.clamp(-3, 3) * 40 + 128).to(dtype)
    return noise.to(dtype)


@pytest.mark.parametrize("name", MASKS)
def test_masks(emulated: Callable[[str], ctypes.CDLL], name: str) -> None:
    mask = MASKS[name]
    masks = torch.stack([mask, torch.zeros_like(mask), mask.flip(1), mask.flip(0), mask])
    scores = scores_of("normal", masks.shape, torch.float32)
    assert_agrees(emulated("pixel_metrics"), scores, masks, [0, -1, 1, 1, 2])
    assert_agrees(emulated("pixel_metrics"), scores[:1], masks[:1], [0])


@pytest.mark.parametrize("dtype", SCORE_TYPES)
@pytest.mark.parametrize("kind", ["normal", "constant", "tied", "hard", "crowded"])
def test_scores(emulated: Callable[[str], ctypes.CDLL], dtype: torch.dtype, kind: str) -> None:
    masks = torch.stack([MASKS["sparse"], MASKS["spiral"], MASKS["dense"]]).to(torch.uint8)
    masks[0] *= 255
    scores = scores_of(kind, masks.shape, dtype)
    assert_agrees(emulated("pixel_metrics"), scores, masks, [0, 1, 0])


@pytest.mark.parametrize("dtype", SCORE_TYPES)
@pytest.mark.parametrize("density", [0.0002, 0.03, 0.5, 1.0])
def test_several_blocks(
    emulated: Callable[[str], ctypes.CDLL], dtype: torch.dtype, density: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(3, 97, 101, generator=generator) < density
    masks[1, 20, 20] = True
    scores = scores_of("normal", masks.shape, dtype) + (2 * masks).to(dtype)
    assert_agrees(emulated("pixel_metrics"), scores, masks, [0, 1, 3])


@pytest.mark.parametrize("order", [1, -1])
def test_scores_that_divide_normal_from_anomalous_pixels(
    emulated: Callable[[str], ctypes.CDLL], order: int
) -> None:
    masks = torch.stack([MASKS["half"], MASKS["rings"]])
    scores = order * (10 * masks + scores_of("normal", masks.shape, torch.float32).tanh())
    assert_agrees(emulated("pixel_metrics"), scores, masks, [1, 0])


def test_masks_and_scores_of_any_address_and_size(
    emulated: Callable[[str], ctypes.CDLL],
) -> None:
    generator = torch.Generator().manual_seed(5)
    for number in range(16):
        images, height, width = torch.randint(1, 9, (3,), generator=generator).tolist()
        count = images * height * width
        mask_bytes = torch.randint(0, 3, (count + 16,), generator=generator, dtype=torch.uint8)
        masks = mask_bytes[number % 16 :][:count].view(images, height, width)
        masks[0, 0, 0] = 1
        scores = torch.randn(count + 1, generator=generator)[1:].view(images, height, width)
        assert_agrees(emulated("pixel_metrics"), scores, masks, [i % 3 for i in range(images)])


def test_memory_is_bounded(emulated: Callable[[str], ctypes.CDLL]) -> None:
    library = emulated("pixel_metrics")
    library.pixel_metrics_workspace.restype = ctypes.c_int64
    pixels = 39_000_000
    for score_type, dtype in enumerate(SCORE_TYPES):
        size = library.pixel_metrics_workspace(score_type, ctypes.c_int64(pixels), 10)
        assert size < (41 if dtype == torch.float64 else 33) * pixels


ERRORS = 8  # kMetricsErrors


def test_errors(emulated: Callable[[str], ctypes.CDLL]) -> None:
    library = emulated("pixel_metrics")
    masks = torch.stack([MASKS["sparse"], torch.zeros(SIZE, SIZE, dtype=torch.bool)] * 3)
    types = [0, -1, 1, -1, 0, -1]
    scores = scores_of("normal", masks.shape, torch.float32)

    def assert_error(error: int, image: int = 0) -> None:
        found = measure(library, scores, masks, types)
        assert all(math.isnan(value) for value in found[:5])
        assert found[5] == error + ERRORS * image

    for dtype in SCORE_TYPES[:-1]:
        for image in (4, 3, 2):  # of a normal pixel, then also of an anomalous one
            scores = scores_of("normal", masks.shape, dtype)
            scores[image:][masks[image:] == (image % 2 == 0)] = torch.nan
            assert_error(4, image)
    masks[5, 3, 3] = True
    assert_error(2, 5)
    masks[3, 20, 20] = True
    assert_error(2, 3)
    masks[:] = False
    assert_error(3)
    types[4] = -2
    assert_error(1)
    scores, masks, types = scores[:0], masks[:0], []
    assert_error(3)
