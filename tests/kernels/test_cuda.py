"""Properties common to all operators on a GPU."""

from __future__ import annotations

import pytest
import torch

from autopatch.kernels import (
    NearestNeighborIndex,
    aggregate_patches,
    greedy_coreset,
    nearest_neighbors,
    pixel_metrics,
)

pytestmark = pytest.mark.cuda


def test_every_kernel_sanitized() -> None:
    """Small and odd, for a run under compute-sanitizer."""
    torch.manual_seed(0)
    maps = [torch.randn(3, 5, 9, 11), torch.randn(3, 18, 4, 4), torch.randn(3, 1, 3, 2)]
    on_device = [m.cuda() for m in maps]
    rows = aggregate_patches(on_device, [3, 4, 1])
    expected = aggregate_patches(maps, [3, 4, 1])
    torch.testing.assert_close(rows.cpu(), expected, rtol=1e-5, atol=1e-5)
    half = [m.half().contiguous(memory_format=torch.channels_last) for m in on_device]
    aggregate_patches(half, [3, 4, 1], out_size=(7, 20))
    indices, _ = greedy_coreset(rows, 50, start=1)
    assert torch.equal(indices.cpu(), greedy_coreset(rows.cpu(), 50, start=1)[0])
    for k in (1, 5):
        found = nearest_neighbors(rows[:131], NearestNeighborIndex(rows[100:]), k)
        plain = torch.ops.autopatch.nearest_neighbors(rows[:131], rows[100:], None, k, True, 0)
        assert torch.equal(found[0], plain[0])
        assert torch.equal(found[1], plain[1])
    masks = torch.rand(3, 41, 43) < 0.3
    for dtype in (torch.float32, torch.float64, torch.float16, torch.uint8):
        scores = (100 * torch.rand(3, 41, 43)).to(dtype)
        metrics = pixel_metrics(scores.cuda(), masks.cuda(), ["a", "b", "a"])
        expected_metrics = pixel_metrics(scores, masks, ["a", "b", "a"])
        assert list(metrics.as_dict().values()) == pytest.approx(
            list(expected_metrics.as_dict().values()), rel=1e-12
        )
