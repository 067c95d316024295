"""How CMake builds the native module: with which compilers, and whether with CUDA."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "cmake").is_dir()
    or shutil.which("cmake") is None
    or shutil.which("ninja") is None
    or importlib.util.find_spec("pybind11") is None,
    reason="needs the sources beside the tests, cmake, ninja and pybind11",
)


def cmake(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cmake", *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


# The oldest of each kind, and one for another processor.
@pytest.mark.parametrize(
    ("compiler", "processor"),
    [("g++-11", ""), ("clang++-13", ""), ("aarch64-linux-gnu-g++-11", "aarch64")],
)
def test_old_compilers_take_the_cpu_kernels(compiler: str, processor: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    import pybind11

    cross = [f"-DCMAKE_SYSTEM_PROCESSOR={processor}", "-DCMAKE_SYSTEM_NAME=Linux"]
    configured = cmake(
        *("-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={compiler}"),
        *("-DAUTOPATCH_CUDA=OFF", "-DAUTOPATCH_WARNINGS_AS_ERRORS=ON"),
        *("-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        *(cross if processor else ()),
    )
    assert configured.returncode == 0, configured.stderr
    units = [
        unit
        for unit in json.loads((tmp_path / "compile_commands.json").read_text())
        if "csrc/ops/cpu/" in unit["file"] or "csrc/core/" in unit["file"]
    ]
    assert len(units) >= (7 if processor else 18)
    for unit in units:
        command = [*shlex.split(unit["command"]), "-fsyntax-only"]
        done = subprocess.run(command, cwd=unit["directory"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "version", "works"),
    [
        ("GNU", "10.5.0", False),
        ("GNU", "11.1.0", True),
        ("Clang", "12.0.1", False),
        ("Clang", "13.0.0", True),
        ("Other", "1.0", True),
    ],
)
def test_older_compilers_are_refused_in_one_line(kind: str, version: str, works: bool) -> None:
    done = cmake(
        *("-DCMAKE_CXX_COMPILER=/opt/bin/c++", f"-DCMAKE_CXX_COMPILER_ID={kind}"),
        *(f"-DCMAKE_CXX_COMPILER_VERSION={version}", "-P", str(ROOT / "cmake" / "Compiler.cmake")),
    )
    assert (done.returncode == 0) is works
    message = (
        " autopatch needs g++ 11 or clang++ 13, or newer: "
        f"/opt/bin/c++ is {kind} {version}; set CXX to another compiler\n"
    )
    assert (message in done.stderr) is not works
