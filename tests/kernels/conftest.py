from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from autopatch import _C

LEVELS = tuple(_C.isa_levels())
GPU = ("cuda",) if _C.cuda_built and torch.cuda.is_available() else ()


@pytest.fixture(params=LEVELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each ISA level of this CPU in turn, active during the test."""
    before = _C.active_isa()
    _C.set_active_isa(request.param)
    yield request.param
    _C.set_active_isa(before)


@pytest.fixture(params=[*LEVELS, *GPU])
def backend(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each implementation of an operator that has a CUDA one: the ISA levels on the CPU, and the
    GPU."""
    if request.param not in LEVELS:
        yield torch.device(request.param)
        return
    before = _C.active_isa()
    _C.set_active_isa(request.param)
    yield torch.device("cpu")
    _C.set_active_isa(before)


@pytest.fixture
def memory_taken() -> Callable[[Callable[[], object]], int]:
    """Measures by how many bytes a function raises the peak memory."""

    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def taken(function: Callable[[], object]) -> int:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            pytest.skip(f"the peak of memory cannot be read here: {error}")
        before = peak()
        function()
        return peak() - before

    return taken


# Runs the code of each line of its input in a fork of itself.
INTERPRETER = """
import json, os, signal, sys, torch

for line in sys.stdin:
    code, environment, out, err = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # ends code that hangs
        for path, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        os.environ.update(environment)
        status = 1
        try:
            exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def interpreter() -> Iterator[subprocess.Popen[str]]:
    """An interpreter that has imported torch alone, without AUTOPATCH_ISA."""
    inherited = {name: value for name, value in os.environ.items() if name != "AUTOPATCH_ISA"}
    with subprocess.Popen(
        [sys.executable, "-c", INTERPRETER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=inherited,
        text=True,
    ) as process:
        yield process
        process.communicate()


@pytest.fixture
def python(
    interpreter: subprocess.Popen[str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new process that has imported torch alone, with more variables of the
    environment if given."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        out, err = tmp_path / "stdout", tmp_path / "stderr"
        for path in (out, err):
            path.unlink(missing_ok=True)
        assert interpreter.stdin is not None
        assert interpreter.stdout is not None
        task = textwrap.dedent(code), environment, str(out), str(err)
        print(json.dumps(task), file=interpreter.stdin, flush=True)
        code_of_exit = int(interpreter.stdout.readline())
        return subprocess.CompletedProcess(
            code, code_of_exit, stdout=out.read_text(), stderr=err.read_text()
        )

    return run
