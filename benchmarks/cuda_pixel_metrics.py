"""Times pixel_metrics on a GPU beside sorting every pixel in torch."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import avg_pool2d

from autopatch.kernels import pixel_metrics
from cuda_timing import Report, median_milliseconds

SIDE = 224
IMAGES = (100, 777)
TYPES = ("good", "crack", "dent")
ANOMALOUS = 0.03  # share of all pixels


def measure(report: Report) -> None:
    """Times every size."""
    for images in IMAGES:
        scores, masks, types = problem(images)
        low, high = scores.aminmax()
        in_8_bits = scores.sub(low).mul(255 / (high - low)).round().to(torch.uint8)
        for of_type, name in [(scores, "float32"), (in_8_bits, "8-bit")]:
            work = f"{of_type.numel() / 1e6:.0f} M pixels, {name}"
            _measure_one(report, work, of_type, masks, types)


def _measure_one(
    report: Report, work: str, scores: torch.Tensor, masks: torch.Tensor, types: list[str]
) -> None:
    found = pixel_metrics(scores, masks, types).as_dict()
    expected = pixel_metrics(scores.cpu(), masks.cpu(), types).as_dict()
    error = max(abs(found[name] / value - 1) for name, value in expected.items())
    if not error < 1e-12:
        raise AssertionError(f"{work}: {found} on the GPU, {expected} on the CPU")
    milliseconds = median_milliseconds([lambda: pixel_metrics(scores, masks, types)])
    read = scores.numel() * (scores.element_size() + 1)
    report(
        operator="pixel_metrics",
        work=work,
        method="autopatch, all five metrics",
        is_peer=False,
        milliseconds=milliseconds,
        achieved=f"{1e-6 * read / milliseconds:.0f} GB/s of scores and masks",
        error=error,
    )
    # Arbitrary weights: rwAP's need labels of regions, which torch cannot find on a GPU.
    weights = torch.ones(scores.shape, dtype=torch.float64, device=scores.device)
    weights[masks] = 1.5
    milliseconds = median_milliseconds(
        [lambda: weighted_average_precision(scores, masks, weights)], runs=5, warm_up=1
    )
    report(
        operator="pixel_metrics",
        work=work,
        method="torch, sort and sums: rwAP alone, its weights given",
        is_peer=True,
        milliseconds=milliseconds,
        achieved="",
        error=None,
    )
    average_precision = weighted_average_precision(scores, masks, torch.ones_like(weights))
    if not math.isclose(average_precision, found["AP"], rel_tol=1e-9):
        raise AssertionError(f"{work}: AP {found['AP']}, by sorting {average_precision}")
    milliseconds = median_milliseconds(
        [lambda: scores.flatten().sort(descending=True)], runs=5, warm_up=1
    )
    report(
        operator="pixel_metrics",
        work=work,
        method="torch.sort alone",
        is_peer=True,
        milliseconds=milliseconds,
        achieved="",
        error=None,
    )


def problem(images: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Scores (higher on most anomalies), masks of blobs, and types."""
    generator = torch.Generator("cuda").manual_seed(0)

    def smooth_noise(width: int) -> torch.Tensor:
        noise = torch.randn(images, 1, SIDE, SIDE, device="cuda", generator=generator)
        for _ in range(2):
            noise = avg_pool2d(noise, width, stride=1, padding=width // 2)
        return (noise / noise.std())[:, 0]

    types = [TYPES[i % len(TYPES)] for i in range(images)]
    blobs = smooth_noise(15)
    anomalous = len([name for name in types if name != "good"]) / images
    sample = blobs.flatten()[:: blobs.numel() // 1_000_000].sort().values
    threshold = sample[int(len(sample) * (1 - ANOMALOUS / anomalous))]
    masks = blobs > threshold
    masks[:: len(TYPES)] = False
    contrast = 3 * torch.rand(images, 1, 1, device="cuda", generator=generator)
    scores = smooth_noise(9) + contrast * masks
    return scores, masks, types


def weighted_average_precision(
    scores: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor
) -> float:
    """Weighted AP, computed by sorting every pixel."""
    ordered, order = scores.flatten().sort(descending=True)
    last_of_ties = torch.ones(len(ordered), dtype=torch.bool, device=scores.device)
    torch.ne(ordered[1:], ordered[:-1], out=last_of_ties[:-1])
    weights = weights.flatten()[order]
    positive = masks.flatten()[order]
    all_found = weights.cumsum(0)[last_of_ties]
    found = (weights * positive).cumsum(0)[last_of_ties]
    gained = found.diff(prepend=found.new_zeros(1))
    return float((gained * (found / all_found)).sum() / found[-1])
