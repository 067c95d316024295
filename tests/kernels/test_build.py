"""CMake's choices for the native module: supported compilers, and whether CUDA is built."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
def test_old_compilers_build_the_module(compiler: str, processor: str, tmp_path: Path) -> None:
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
    units = json.loads((tmp_path / "compile_commands.json").read_text())
    assert len(units) == (17 if processor else 28)

    def build(unit: dict[str, str]) -> str:
        # pybind11 takes long, and needs Python's headers for that processor.
        of_bindings = unit["file"].endswith("bindings.cpp")
        if of_bindings and processor:
            return ""
        command = [*shlex.split(unit["command"]), "-O0", "-o", os.devnull]
        command += ["-fsyntax-only"] if of_bindings else []
        done = subprocess.run(command, cwd=unit["directory"], capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert set(pool.map(build, units)) == {""}


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


# An nvcc that tells its version and the architectures it knows, and compiles nothing.
NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
  --list-gpu-code) printf 'sm_%s\\n' {known} ;;
  *) echo "$@" > "$0.arguments"
     echo "nvcc fatal   : Cannot find compiler 'cl.exe' in PATH" >&2; exit 1 ;;
esac
"""
PROJECT = """cmake_minimum_required(VERSION 3.25)
project(decides LANGUAGES NONE)
include({cuda})
message(STATUS "reason: ${{AUTOPATCH_CUDA_REASON}}")
message(STATUS "targets: ${{AUTOPATCH_CUDA_TARGETS}}")
"""


@pytest.fixture
def decide(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs cmake/Cuda.cmake on a machine with an nvcc of `version` that knows architectures `known`
    and GPUs of capabilities `gpus`; returns exit code, reason or message, and targets."""

    def run(
        version: str, known: str, *gpus: str, cudacxx: str = "", cudaflags: str = "", **options: str
    ) -> tuple[int, str, str]:
        tools = {
            "nvidia-smi": "#!/bin/sh\n" + (f"printf '%s\\n' {' '.join(gpus)}" if gpus else "exit 9")
        }
        tools["nvcc"] = NVCC.format(version=version, known=known) if version else ""
        for name, script in tools.items():
            if script:
                (tmp_path / name).write_text(script)
                (tmp_path / name).chmod(0o755)
        (tmp_path / "CMakeLists.txt").write_text(PROJECT.format(cuda=ROOT / "cmake" / "Cuda.cmake"))
        done = cmake(
            *("-S", str(tmp_path), "-B", str(tmp_path / "build"), "-G", "Ninja"),
            f"-DAUTOPATCH_NVIDIA_SMI={tmp_path / 'nvidia-smi'}",
            "-DAUTOPATCH_CUDA=AUTO",
            *(f"-D{name}={value}" for name, value in options.items()),
            CUDACXX=str(tmp_path / "nvcc") if version else cudacxx,
            CUDAFLAGS=cudaflags,
        )
        reason, targets = (
            re.findall(rf"^-- {name}: (.*)$", done.stdout, flags=re.MULTILINE)
            for name in ("reason", "targets")
        )
        if done.returncode:
            return done.returncode, " ".join(done.stderr.split()), ""
        has_cuda = version != "" or cudacxx != "" or len(gpus) > 0
        is_cpu_build_of_a_cuda_machine = reason != [""] and has_cuda
        assert ("CMake Warning at" in done.stderr) is is_cpu_build_of_a_cuda_machine
        return done.returncode, reason[0], targets[0]

    return run


KNOWN_12_4 = "sm_80 sm_86 sm_87 sm_89 sm_90"


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (("", ""), "no nvcc was found; CUDACXX may hold its path"),
        (("", "", "8.6"), "no nvcc was found; CUDACXX may hold its path"),
        (("11.8", KNOWN_12_4), "nvcc is nvcc 11.8, but 12.0 or newer is needed"),
        (
            ("12.4", KNOWN_12_4, "7.5", "7.5"),
            "the GPU has compute capability 7.5, but 8.0 or newer is needed",
        ),
        (
            ("12.4", KNOWN_12_4, "12.0"),
            "nvcc is nvcc 12.4, which does not know the GPU's compute capability 12.0: it is too"
            " old",
        ),
        (
            ("12.4", KNOWN_12_4, "8.6", "7.5"),
            "nvcc does not compile for 86: nvcc fatal   : Cannot find compiler 'cl.exe' in PATH",
        ),
    ],
)
def test_a_cpu_build_has_a_reason(
    decide: Callable[..., tuple[int, str, str]], machine: tuple[str, ...], reason: str
) -> None:
    code, found, _ = decide(*machine)
    assert code == 0
    assert found.endswith(reason)
    code, found, _ = decide(*machine, AUTOPATCH_CUDA="ON")
    assert code == 1
    assert re.search(f"AUTOPATCH_CUDA=ON, but .*{re.escape(' '.join(reason.split()))}", found)


def test_cuda_may_be_switched_off(decide: Callable[..., tuple[int, str, str]]) -> None:
    found = decide("", "", AUTOPATCH_CUDA="OFF")
    assert found == (0, "it was switched off with AUTOPATCH_CUDA=OFF", "")


@pytest.mark.parametrize(
    ("architectures", "gpus", "targets"),
    [
        ("auto", (), "80;90a"),
        ("auto", ("8.7",), "87"),
        ("auto", ("7.5", "9.0", "8.9", "9.0"), "90a;89"),
        ("release", ("8.6",), "80;86;87;89;90a"),
        ("86;90a", ("8.0",), "86;90a"),
    ],
)
def test_architectures(
    decide: Callable[..., tuple[int, str, str]],
    architectures: str,
    gpus: tuple[str, ...],
    targets: str,
) -> None:
    options = {"AUTOPATCH_CUDA_ARCHITECTURES": architectures}
    assert decide("12.4", KNOWN_12_4, *gpus, **options)[2] == targets


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        ("75;80", "has '75', but 80 or newer is needed"),
        ("86,89", "is '86,89', expected auto, release or a list such as 86;90a"),
        ("native", "is 'native', expected auto, release or a list such as 86;90a"),
        ("", "is '', expected auto, release or a list such as 86;90a"),
    ],
)
def test_architectures_that_are_none_end_the_build(
    decide: Callable[..., tuple[int, str, str]], architectures: str, message: str
) -> None:
    code, found, _ = decide("12.4", KNOWN_12_4, AUTOPATCH_CUDA_ARCHITECTURES=architectures)
    assert code == 1
    assert f" AUTOPATCH_CUDA_ARCHITECTURES {message} " in found


def test_a_wrong_cudacxx_is_named(
    decide: Callable[..., tuple[int, str, str]],
) -> None:
    assert decide("", "", cudacxx="/opt/gone/nvcc")[1] == "/opt/gone/nvcc does not run"


def test_flags_of_the_user_are_tried(
    decide: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    flags = {"cudaflags": "-allow-unsupported-compiler", "CMAKE_CUDA_FLAGS": "-use_fast_math -G"}
    decide("12.4", KNOWN_12_4, "8.6", **flags)
    used = (tmp_path / "nvcc.arguments").read_text().split()
    assert {"-allow-unsupported-compiler", "-use_fast_math", "-G"} <= set(used)
