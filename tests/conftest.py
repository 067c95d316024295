"""`pytest --benchmark` runs the benchmarks instead of the tests; what several folders use."""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from optuna.storages._rdb.storage import _VersionManager

from autopatch import _C
from autopatch.data import draw_textures

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


DEVICES = ("cpu", "cuda") if _C.cuda_built and torch.cuda.is_available() else ("cpu",)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Collects tests marked `cuda` only on machines with a GPU."""
    if "cuda" not in DEVICES:
        on_gpu = [item for item in items if item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if item not in on_gpu]


def pytest_report_header() -> str:
    if "cuda" in DEVICES:
        return f"CUDA: tests on {torch.cuda.get_device_name()} are collected"
    return "CUDA: no test on a GPU is collected, as there is none or autopatch was built without"


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that can be used here."""
    return torch.device(request.param)


@pytest.fixture
def at_every_instruction() -> Callable[..., int]:
    """Calls one function before each instruction of another, like a concurrent thread; returns the
    number of calls."""

    def run(
        call: Callable[[], object], inside: Callable[..., object], other: Callable[[], object]
    ) -> int:
        calls = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal calls
            if frame.f_code is not inside.__code__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                calls += 1
                other()
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
        return calls

    return run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: the maps of the tests are too small to gain from more, also in child processes.
    Tests of threads set their own number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def migrations_read_once() -> Iterator[None]:
    """Optuna executes its migration scripts, which never change, whenever it opens a file."""
    read = _VersionManager._create_alembic_script
    scripts: list[Any] = []

    def read_once(manager: _VersionManager) -> Any:
        if not scripts:
            scripts.append(read(manager))
        return scripts[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", read_once)
        yield


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn data set in the MVTec-AD layout."""
    root = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(root, seed=1, image_size=64, train=16, test_good=4, per_type=6)


@pytest.fixture
def autopatch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a command in this process; gives exit code, standard output and standard error."""
    from autopatch.cli import main

    # A command prints what the package logs, which concerns no other test.
    logger = logging.getLogger("autopatch")
    before = logger.level, logger.propagate, [*logger.handlers]

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autopatch", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        captured = capsys.readouterr()
        return (0 if code is None else code), captured.out, captured.err

    yield run
    logger.level, logger.propagate, logger.handlers[:] = before


@pytest.fixture(scope="session")
def seeded_tensor() -> Callable[[str, tuple[int, ...], int], torch.Tensor]:
    """Makes tensors of the published supernets by name, shape and seed, without torch's random
    numbers, which differ between versions."""

    def make(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.zeros(shape, dtype=torch.int64)
        random = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
        values = random.standard_normal(shape)
        if name.endswith("running_mean"):
            values = 0.2 * values
        elif name.endswith("running_var"):
            values = np.exp(0.3 * values)
        elif name.endswith("_matrix"):
            values = np.eye(shape[0]) + 0.1 * values
        elif name.endswith("bn.weight"):
            values = 1 + 0.2 * values
        elif name.endswith("bn.bias"):
            values = 0.2 * values
        elif len(shape) == 4:
            gain = 0.7 if ".point_linear." in name else 2**0.5
            values = values * gain / np.sqrt(shape[1] * shape[2] * shape[3])
        elif len(shape) == 2:
            values = values / np.sqrt(shape[1])
        else:
            values = 0.1 * values
        return torch.from_numpy(values.astype(np.float32))

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark",
        action="store_true",
        help="run benchmarks/bench_*.py instead of the tests; choose among them with -k",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--benchmark"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install 'autopatch[test]'")
    config.args = [str(BENCHMARKS)]
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
