"""Versions and hardware."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from autopatch import __version__
from autopatch.files import cache_folder
from autopatch.kernels import native_info


def system_info() -> dict[str, str]:
    """Versions, instruction sets, CUDA, threads and cache folders, by name."""
    packages = ("torch", "timm", "numpy", "pymoo", "optuna")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    native = native_info()
    if not native.cuda_built:
        cuda = f"not built: {native.cuda_reason}"
    elif torch.cuda.is_available():
        cuda = f"built, usable: {torch.cuda.get_device_name()}"
    else:
        cuda = "built, but there is no usable GPU"
    return {
        "autopatch": __version__,
        "Python": platform.python_version(),
        "packages": versions,
        "ISA detected": native.detected_isa,
        "ISA active": native.active_isa,
        "CUDA": cuda,
        "threads": str(torch.get_num_threads()),
        "cache folders": f"{HF_HUB_CACHE} (weights of timm's hub), {cache_folder()} (ofa_mbv3)",
    }
