from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autopatch import _C
from autopatch.kernels.operators import pixel_metrics

MODULE = Path(_C.__file__)
KERNEL_SOURCES = Path(__file__).parents[2] / "csrc" / "ops" / "cpu"


def readelf(*options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    return subprocess.run(
        ["readelf", "--wide", *options, str(MODULE)], capture_output=True, text=True, check=True
    ).stdout


def test_links_neither_libtorch_nor_cuda_nor_libpython() -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic"))
    assert any(name.startswith("libc.so") for name in needed)
    foreign = ("libtorch", "libc10", "libcud", "libnv", "libpython", "libgomp", "libmkl")
    assert [name for name in needed if name.startswith(foreign)] == []


def test_exports_no_function_but_its_initialiser() -> None:
    # Columns: number, value, size, type, bind, visibility, section, name.
    symbols = [line.split() for line in readelf("--dyn-syms").splitlines()]
    exported = {
        columns[7].partition("@")[0]
        for columns in symbols
        if len(columns) > 7
        and columns[3] == "FUNC"
        and columns[4] == "GLOBAL"
        and columns[6] != "UND"
    }
    assert exported == {"PyInit__C"}


@pytest.mark.skipif(not KERNEL_SOURCES.is_dir(), reason="the sources are not beside the tests")
def test_kernel_bodies_include_no_header_that_defines_functions() -> None:
    # An inline function compiled for AVX-512 here could become the one copy of the whole module.
    bodies = list(KERNEL_SOURCES.iterdir())
    assert bodies
    for source in bodies:
        text = source.read_text()
        system = set(re.findall(r"#include <(.*)>", text))
        assert system <= {"cstddef", "cstdint", "immintrin.h"}, source.name
        own = set(re.findall(r'#include "(.*)"', text))
        assert all(header.startswith("ops/cpu/") for header in own), source.name


@pytest.mark.skipif(not KERNEL_SOURCES.is_dir(), reason="the sources are not beside the tests")
def test_kernel_bodies_export_one_symbol_for_each_level() -> None:
    for source in KERNEL_SOURCES.glob("*.cpp"):
        text = source.read_text()
        assert text.count("\nnamespace {") == 1, source.name
        outside = text.partition("\n}  // namespace\n")[2]
        functions = re.findall(r"^\w[\w:<>* ]* \**(\w+)\(", outside, flags=re.MULTILINE)
        assert functions, source.name
        assert set(functions) == {"AUTOPATCH_ISA_SYMBOL"}, source.name


def test_every_error_of_the_metrics_has_a_message() -> None:
    pixel_metrics.check_metrics_error(0, 2)
    errors = list(_C.MetricsError.__members__.values())[1:]
    assert len(errors) < _C.metrics_errors
    for error in errors:
        with pytest.raises(ValueError, match=r"^`(type_indices|masks|scores)`"):
            pixel_metrics.check_metrics_error(int(error) + 3 * _C.metrics_errors, 2)


@pytest.mark.parametrize(("rows", "count", "size"), [(100_000, 1000, 2**26), (3000, 3000, 2**20)])
def test_the_widest_codes_of_a_coreset_fit_its_memory(rows: int, count: int, size: int) -> None:
    def taken(width: int) -> int:
        return (2 * width + 52) * rows + (width + 4) * count

    width = _C.coreset_width_within(size, rows, count)
    assert taken(width) <= size < taken(width + 1)


def test_a_module_without_cuda_says_why() -> None:
    assert (_C.cuda_reason == "") is _C.cuda_built
