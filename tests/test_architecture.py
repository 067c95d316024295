"""Imports go one way, and what is slow to import is imported late."""

import ast
import subprocess
import sys
from pathlib import Path

import autopatch

ORDER = ["cli", "report", "search", "detector", "data", "supernet", "kernels"]
ALLOWED = {name: set(ORDER[i + 1 :]) | {"errors", "progress"} for i, name in enumerate(ORDER)}
ALLOWED["data"] -= {"supernet"}
ALLOWED["kernels"] = {"_C", "errors"}
EVERYWHERE = {"__version__"}
PACKAGE = Path(autopatch.__file__).parent


def imported_parts(file):
    """First part of each autopatch name that a file imports, and foreign modules."""
    own, foreign = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules = [node.module]
            if node.module == "autopatch":
                modules = [f"autopatch.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "autopatch":
                own.add(parts[1])
            else:
                foreign.add(parts[0])
    return own, foreign


def test_imports_go_one_way():
    for part in ORDER:
        for file in (PACKAGE / part).rglob("*.py"):
            own, _ = imported_parts(file)
            forbidden = own - ALLOWED[part] - EVERYWHERE - {part}
            if part == "cli":
                forbidden -= {"_C"}  # `autopatch info`
            assert not forbidden, f"{file} imports {sorted(forbidden)}"


def test_kernels_need_torch_and_numpy_alone():
    for file in (PACKAGE / "kernels").rglob("*.py"):
        _, foreign = imported_parts(file)
        assert foreign <= {"torch", "numpy"} | set(sys.stdlib_module_names), file


def test_the_package_is_quick_to_import():
    code = (
        "import time; start = time.perf_counter(); import autopatch; "
        "print(time.perf_counter() - start); import sys; assert 'torch' not in sys.modules"
    )
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    )
    assert seconds < 0.3


def test_every_public_name_exists():
    for name in autopatch.__all__:
        assert getattr(autopatch, name) is not None
