"""Checks of shapes, dtypes and devices, before an address is passed to the native module.

Real and fake implementations call them, so that neither a direct call of `torch.ops.autopatch.*`
nor a compiled graph accesses memory out of bounds. Values (NaN, infinity) are checked by the
implementations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autopatch import _C

MAX_BANK_ROWS = 2**31 - 1
FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCORE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)


def dtype_name(tensor: torch.Tensor) -> str:
    """Name of a tensor's dtype, such as "float64"."""
    return str(tensor.dtype).removeprefix("torch.")


def check_dtype(name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        *others, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise TypeError(f"`{name}` has dtype {dtype_name(tensor)}, expected {expected}")


def check_memory(name: str, tensor: torch.Tensor) -> None:
    """Raises NotImplementedError unless the kernels can use the tensor's memory. Meta tensors
    pass."""
    if tensor.layout != torch.strided:
        raise NotImplementedError(
            f"`{name}` has layout {str(tensor.layout).removeprefix('torch.')}, expected a dense "
            "tensor"
        )
    if tensor.device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"`{name}` is on {tensor.device}, expected cpu or cuda; move it with .cpu()"
        )
    if tensor.is_cuda and not _C.cuda_built:
        raise NotImplementedError(
            f"`{name}` is on {tensor.device}, but autopatch was built without CUDA: "
            f"{_C.cuda_reason}; move the tensor with .cpu()"
        )


def _check_matrix(name: str, tensor: torch.Tensor) -> None:
    check_memory(name, tensor)
    check_dtype(name, tensor, torch.float32)
    if tensor.ndim != 2:
        raise ValueError(f"`{name}` has shape {list(tensor.shape)}, expected two dimensions")


def check_bank(bank: torch.Tensor) -> None:
    _check_matrix("bank", bank)
    if not 1 <= bank.shape[0] <= MAX_BANK_ROWS:
        raise ValueError(f"`bank` has {bank.shape[0]} rows, expected 1 to {MAX_BANK_ROWS}")


def check_nearest(queries: torch.Tensor, bank: torch.Tensor, k: int) -> None:
    _check_matrix("queries", queries)
    check_bank(bank)
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"`queries` has {queries.shape[1]} columns, `bank` has {bank.shape[1]}")
    if queries.device != bank.device:
        raise ValueError(f"`queries` is on {queries.device}, `bank` on {bank.device}")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"`k` is {k}, expected 1 to the {bank.shape[0]} rows of `bank`")


def check_screen(screen: torch.Tensor, bank: torch.Tensor) -> None:
    check_memory("screen", screen)
    check_dtype("screen", screen, torch.uint8)
    if screen.device != bank.device or not screen.is_contiguous():
        raise _wrong_screen()


def check_cpu_screen(screen: torch.Tensor, bank: torch.Tensor) -> None:
    check_screen(screen, bank)
    if not _C.is_screen(screen.data_ptr(), screen.numel(), bank.shape[0], bank.shape[1]):
        raise _wrong_screen()


def check_cuda_screen(screen: torch.Tensor, bank: torch.Tensor) -> None:
    check_screen(screen, bank)
    if screen.numel() != _C.screen_bytes_cuda(*bank.shape) or screen.data_ptr() % 256:
        raise _wrong_screen()


def _wrong_screen() -> ValueError:
    return ValueError("`screen` does not belong to `bank`; a NearestNeighborIndex holds both")


def check_cuda_columns(features: torch.Tensor) -> None:
    if features.shape[1] > _C.max_cuda_columns:
        raise ValueError(
            f"`features` has {features.shape[1]} columns, expected at most {_C.max_cuda_columns} "
            "on a GPU; move it with .cpu()"
        )


def check_coreset(features: torch.Tensor, count: int, start: int | None) -> None:
    _check_matrix("features", features)
    rows = features.shape[0]
    if rows > MAX_BANK_ROWS:
        raise ValueError(f"`features` has {rows} rows, expected at most {MAX_BANK_ROWS}")
    if not 1 <= count <= rows:
        raise ValueError(f"`count` is {count}, expected 1 to the {rows} rows of `features`")
    if start is not None and not 0 <= start < rows:
        raise ValueError(f"`start` is {start}, expected 0 to {rows - 1}")


def check_aggregate(feature_maps: Sequence[torch.Tensor], patch_sizes: Sequence[int]) -> None:
    if not feature_maps:
        raise ValueError("`feature_maps` is empty")
    if len(patch_sizes) != len(feature_maps):
        raise ValueError(
            f"`patch_sizes` has {len(patch_sizes)} entries, `feature_maps` has {len(feature_maps)}"
        )
    images = feature_maps[0].shape[0]
    for i, (tensor, patch_size) in enumerate(zip(feature_maps, patch_sizes, strict=True)):
        name = f"feature_maps[{i}]"
        check_memory(name, tensor)
        check_dtype(name, tensor, *FEATURE_DTYPES)
        if tensor.device != feature_maps[0].device:
            raise ValueError(
                f"`{name}` is on {tensor.device}, `feature_maps[0]` on {feature_maps[0].device}"
            )
        if tensor.ndim != 4:
            raise ValueError(f"`{name}` has shape {list(tensor.shape)}, expected [N, C, H, W]")
        if tensor.shape[0] != images:
            raise ValueError(f"`{name}` holds {tensor.shape[0]} images, `feature_maps[0]` {images}")
        if not 1 <= patch_size <= _C.max_patch_size:
            raise ValueError(
                f"`patch_sizes[{i}]` is {patch_size}, expected 1 to {_C.max_patch_size}"
            )
        shrink = 1 - patch_size % 2
        if tensor.shape[2] <= shrink or tensor.shape[3] <= shrink:
            raise ValueError(
                f"`{name}` has shape {list(tensor.shape)}: nothing is left after pooling with "
                f"patch size {patch_size}"
            )


def check_aggregate_out(
    feature_maps: Sequence[torch.Tensor], height: int, width: int, out: torch.Tensor
) -> None:
    check_memory("out", out)
    check_dtype("out", out, torch.float32)
    if out.device != feature_maps[0].device:
        raise ValueError(f"`out` is on {out.device}, `feature_maps[0]` on {feature_maps[0].device}")
    shape = [feature_maps[0].shape[0] * height * width, sum(m.shape[1] for m in feature_maps)]
    if list(out.shape) != shape or not out.is_contiguous():
        raise ValueError(
            f"`out` has shape {list(out.shape)}, expected {shape} without gaps between rows"
        )


def check_out_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"`out_size` is {(height, width)}, expected at least (1, 1)")


def check_metrics(
    scores: torch.Tensor, masks: torch.Tensor, type_indices: torch.Tensor, num_types: int
) -> None:
    for name, tensor in (("scores", scores), ("masks", masks), ("type_indices", type_indices)):
        check_memory(name, tensor)
    check_dtype("scores", scores, *SCORE_DTYPES)
    check_dtype("masks", masks, torch.bool, torch.uint8)
    check_dtype("type_indices", type_indices, torch.int32)
    if scores.ndim != 3:
        raise ValueError(f"`scores` has shape {list(scores.shape)}, expected [N, H, W]")
    if masks.shape != scores.shape:
        raise ValueError(
            f"`masks` has shape {list(masks.shape)}, `scores` has shape {list(scores.shape)}"
        )
    if list(type_indices.shape) != [scores.shape[0]]:
        raise ValueError(
            f"`types` has {type_indices.numel()} entries, `scores` has {scores.shape[0]} images"
        )
    if num_types < 0:
        raise ValueError(f"`num_types` is {num_types}, expected at least 0")
    for name, tensor in (("masks", masks), ("type_indices", type_indices)):
        if tensor.device != scores.device:
            raise ValueError(f"`{name}` is on {tensor.device}, `scores` on {scores.device}")


def check_cuda_pixels(scores: torch.Tensor) -> None:
    if scores.numel() > _C.max_cuda_pixels:
        raise ValueError(
            f"`scores` have {scores.numel()} pixels, expected at most {_C.max_cuda_pixels} "
            "on a GPU; move them with .cpu()"
        )
