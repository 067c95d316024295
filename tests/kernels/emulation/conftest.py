"""CUDA kernels on the host: `cuda_runtime.h` beside this file emulates a device."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CSRC = FOLDER.parents[2] / "csrc"
# fmt: off
OPTIONS = (
    "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE", "-DAUTOPATCH_CUDA_EMULATION", f"-I{FOLDER}", f"-I{CSRC}",
)
# fmt: on


@pytest.fixture(scope="session")
def emulated(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], ctypes.CDLL]]:
    """Loads `<operator>.cpp` of this folder, which includes CUDA sources and has functions
    `extern "C"` to call them. All are built side by side, and kept until a source changes."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler to build emulated kernels with")
    cache = getattr(pytestconfig, "cache", None)
    kept = cache.mkdir("emulated") if cache else tmp_path_factory.mktemp("kept")
    digest = sources_digest(compiler)
    for outdated in set(kept.iterdir()) - set(kept.glob(f"*-{digest}.so")):
        outdated.unlink()
    folder = tmp_path_factory.mktemp("emulated")
    builds: dict[str, subprocess.Popen[bytes]] = {}
    for source in FOLDER.glob("*.cpp"):
        if not (kept / f"{source.stem}-{digest}.so").exists():
            command = [compiler, *OPTIONS, str(source), "-o", str(folder / source.stem)]
            builds[source.stem] = subprocess.Popen(command)

    @functools.cache
    def built(operator: str) -> Path:
        library = kept / f"{operator}-{digest}.so"
        if operator in builds:
            assert builds[operator].wait() == 0
            shutil.move(folder / operator, library)
        return library

    yield functools.cache(lambda operator: ctypes.CDLL(str(built(operator))))
    for operator in builds:
        built(operator)


def sources_digest(compiler: str) -> str:
    """Hash of everything that the libraries are built from."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + " ".join(OPTIONS).encode())
    for source in sorted((*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h"), *CSRC.rglob("*.*"))):
        if source.is_file():
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
