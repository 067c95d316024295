"""Imports go one way, and slow modules are imported late."""

import ast
import subprocess
import sys
from pathlib import Path

import autopatch

ORDER = [
    "cli",
    "published",
    "runs",
    "report",
    "search",
    "detector",
    "data",
    "supernet",
    "kernels",
]
GROUND = {"errors", "progress", "genes", "registry", "files", "words"}
ALLOWED = {name: set(ORDER[i + 1 :]) | GROUND for i, name in enumerate(ORDER)}
ALLOWED["data"] -= {"supernet"}
ALLOWED["kernels"] = {"_C", "errors"}
EVERYWHERE = {"__version__"}
PACKAGE = Path(autopatch.__file__).parent


def imported_parts(file):
    """First part of each autopatch name that a file imports, and names of foreign modules. Names in
    strings, such as in registries, do not count."""
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


def test_every_module_has_its_place():
    parts = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert parts == {*ORDER, *GROUND, "__init__", "__main__"}


def test_imports_go_one_way():
    for part in ORDER:
        for file in (PACKAGE / part).rglob("*.py"):
            own, _ = imported_parts(file)
            forbidden = own - ALLOWED[part] - EVERYWHERE - {part}
            assert not forbidden, f"{file} imports {sorted(forbidden)}"


def test_ground_modules_import_no_part():
    for name in GROUND:
        own, _ = imported_parts(PACKAGE / f"{name}.py")
        assert own <= GROUND, f"{name}.py imports {sorted(own)}"


def test_the_native_module_is_known_to_kernels_alone():
    for file in PACKAGE.rglob("*.py"):
        own, _ = imported_parts(file)
        assert "_C" not in own or file.is_relative_to(PACKAGE / "kernels"), file


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
    for part in ORDER:
        module = __import__(f"autopatch.{part}", fromlist=["__all__"])
        for name in getattr(module, "__all__", ()):
            assert getattr(module, name) is not None
