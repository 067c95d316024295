"""CUDA kernels on the host: `cuda_runtime.h` beside this file emulates a device."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CSRC = FOLDER.parents[2] / "csrc"


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """Builds `<operator>.cpp` of this folder, which includes CUDA sources and has functions
    `extern "C"` to call them, and loads it."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler to build emulated kernels with")

    def build(operator: str) -> ctypes.CDLL:
        library = tmp_path_factory.mktemp(operator) / f"{operator}.so"
        # fmt: off
        subprocess.run(
            [
                compiler, "-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-ffp-contract=off",
                "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-DAUTOPATCH_CUDA_EMULATION",
                f"-I{FOLDER}", f"-I{CSRC}", str(FOLDER / f"{operator}.cpp"), "-o", str(library),
            ],
            check=True,
        )
        # fmt: on
        return ctypes.CDLL(str(library))

    return functools.cache(build)
