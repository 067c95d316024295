"""Patch features from feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autopatch.kernels import _checks, operators  # noqa: F401  (registers the operators)
from autopatch.kernels._arrays import Array, check_threads, is_shareable, like, to_tensor


def aggregate_patches(
    feature_maps: Sequence[Array],
    patch_sizes: Sequence[int],
    *,
    out_size: tuple[int, int] | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Pools, resizes and concatenates feature maps to one row per patch position, in one pass.

    Each map is average-pooled with its patch size p: stride 1, zero padding (p - 1) // 2. Padding
    counts in the mean, so values at borders are smaller; an even p shrinks the map by one. The map
    is resized bilinearly (align_corners=False) to the size of the largest map and appended to the
    rows, as in AutoPatch (Kerssies & Vanschoren, 2023). NaN and infinity spread to all patches that
    contain them, as in torch.

    Args:
        feature_maps: Maps `[N, C_l, H_l, W_l]`, float32, float16 or bfloat16, on one device. On the
            CPU, float16 and bfloat16 are converted first. Maps that are neither contiguous nor
            channels-last are copied first.
        patch_sizes: Patch size of each map, 1 to 16.
        out_size: Output size (H, W); if None, the lexicographically largest (H_l, W_l).
        out: Contiguous float32 array `[N * H * W, sum C_l]` on the device of the maps, to write to
            and return.
        num_threads: CPU threads; `torch.get_num_threads()` if None.

    Returns:
        Patch features `[N * H * W, sum C_l]`, float32, rows in order N, H, W: `out` if given,
        otherwise a NumPy array if the first map is one, otherwise a tensor. There are no rows
        without images, and no columns without channels.

    Raises:
        TypeError: The dtype of an array is not allowed.
        NotImplementedError: A tensor is sparse, or on a device that the kernels cannot run on.
        ValueError: There is no map, sizes do not match, a patch size is out of range, or a map is
            empty after pooling.
    """
    tensors = [to_tensor(f"feature_maps[{i}]", m) for i, m in enumerate(feature_maps)]
    _checks.check_aggregate(tensors, patch_sizes)
    height, width = out_size or _largest(tensors)
    threads = check_threads(num_threads)
    if out is None:
        result = torch.ops.autopatch.aggregate_patches(
            tensors, list(patch_sizes), height, width, threads
        )
        return like(result, feature_maps[0])
    target = to_tensor("out", out)
    if isinstance(out, np.ndarray) and not (is_shareable(out) and out.flags.c_contiguous):
        raise ValueError("`out` is read-only, not contiguous, not aligned or of foreign byte order")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, target)):
        raise RuntimeError("autopatch::aggregate_patches_out has no gradient")
    torch.ops.autopatch.aggregate_patches_out(
        tensors, list(patch_sizes), height, width, target, threads
    )
    return out


def _largest(tensors: list[torch.Tensor]) -> tuple[int, int]:
    # torch.compile cannot trace max() over pairs of dynamic sizes.
    height, width = 0, 0
    for tensor in tensors:
        if (tensor.shape[2], tensor.shape[3]) > (height, width):
            height, width = tensor.shape[2], tensor.shape[3]
    return height, width
