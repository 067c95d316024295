"""Times aggregate_patches on a GPU beside torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from autopatch.kernels import aggregate_patches, reference
from cuda_timing import Report, median_milliseconds

IMAGES = 256
LEVELS = ((24, 56), (40, 28), (112, 14), (160, 7))  # channels and side length of each level
PATCH_SIZES = {
    "3": (3, 3, 3, 3),
    "1": (1, 1, 1, 1),
    "9, 5, 3, 3": (9, 5, 3, 3),
    "15, 7, 7, 7": (15, 7, 7, 7),
}
TOLERANCE = 1e-5


def copy_bandwidth(byte_count: int) -> float:
    """Bytes per second, read and written, of a copy between arrays on the device."""
    source, target = (torch.empty(byte_count // 8, device="cuda") for _ in range(2))
    return byte_count / (1e-3 * median_milliseconds([lambda: target.copy_(source)]))


def measure(report: Report) -> None:
    """Times every patch size, layout and dtype."""
    channels = sum(c for c, _ in LEVELS)
    side = LEVELS[0][1]
    written = 4 * IMAGES * side * side * channels
    bandwidth = copy_bandwidth(written)
    report(
        operator="aggregate_patches",
        work="copy of as many bytes",
        method="torch copy_",
        is_peer=True,
        milliseconds=1e3 * written / bandwidth,
        achieved=f"{bandwidth / 1e12:.2f} TB/s read and written",
        error=None,
    )
    eager = reference.aggregate_patches
    compiled = torch.compile(eager)
    outs = [torch.empty(IMAGES * side * side, channels, device="cuda") for _ in range(2)]
    for name, patch_sizes in PATCH_SIZES.items():
        for dtype, last in [(torch.float32, True), (torch.float32, False), (torch.float16, True)]:
            if name != "3" and not (dtype == torch.float32 and last):
                continue
            sets = [_maps(seed, dtype, last) for seed in range(2)]
            read = sum(m.numel() * m.element_size() for m in sets[0])
            floor = 1e3 * (read + written) / bandwidth
            layout = "channels last" if last else "NCHW"
            work = f"{IMAGES} images, p = {name}, {str(dtype).removeprefix('torch.')}, {layout}"
            methods: list[tuple[str, Callable[..., object], bool]] = [
                ("autopatch", partial(_ours, patch_sizes=patch_sizes), False),
                ("torch", partial(_peer, eager, patch_sizes=patch_sizes), True),
                ("torch.compile", partial(_peer, compiled, patch_sizes=patch_sizes), True),
            ]
            if name != "3":
                methods.pop()
            exact = eager([m[:2].double() for m in sets[0]], patch_sizes)
            for method, function, is_peer in methods:
                try:
                    found = function(sets[0], outs[0])
                except Exception as error:
                    if not is_peer:
                        raise
                    _failed(report, work, method, error)
                    continue
                error = float((found[: len(exact)].double() - exact).abs().max())
                del found
                milliseconds = median_milliseconds(
                    [partial(function, maps, out) for maps, out in zip(sets, outs, strict=True)]
                )
                report(
                    operator="aggregate_patches",
                    work=work,
                    method=method,
                    is_peer=is_peer,
                    milliseconds=milliseconds,
                    achieved=f"{floor / milliseconds:.0%} of copy bandwidth",
                    error=error,
                )
                if not is_peer and not error <= TOLERANCE:
                    raise AssertionError(f"{work}: differs by {error:.1e}")


def _maps(seed: int, dtype: torch.dtype, last: bool) -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    layout = torch.channels_last if last else torch.contiguous_format
    return [
        torch.randn(IMAGES, c, s, s, device="cuda", generator=generator)
        .to(dtype)
        .contiguous(memory_format=layout)
        for c, s in LEVELS
    ]


def _ours(maps: Sequence[torch.Tensor], out: torch.Tensor, *, patch_sizes: Sequence[int]) -> object:
    return aggregate_patches(maps, patch_sizes, out=out)


def _peer(
    function: Callable[..., torch.Tensor],
    maps: Sequence[torch.Tensor],
    _out: torch.Tensor,
    *,
    patch_sizes: Sequence[int],
) -> object:
    return function(maps, patch_sizes)


def _failed(report: Report, work: str, method: str, error: Exception) -> None:
    report(
        operator="aggregate_patches",
        work=work,
        method=method,
        is_peer=True,
        milliseconds=None,
        achieved=f"does not run: {type(error).__name__}",
        error=None,
    )
