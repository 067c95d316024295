"""Benchmarks of one group are compared: each reports the time of the whole work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="there are no benchmarks here")

GROUP = """
import pytest
from extrapolation import time_whole

now = 0.0  # seconds


@pytest.mark.benchmark(group="a group", timer=lambda: now)
@pytest.mark.parametrize("part", [1.0, 1 / 16])
def test_member(benchmark, part):
    def work():
        global now
        now += 8.0 * part

    time_whole(benchmark, work, rounds=3, part=part)
"""


def test_the_printed_times_are_those_of_the_whole_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pytest_benchmark")
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_group.py").write_text(GROUP)
    record = tmp_path / "record.json"
    options = ["-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "-q"]
    assert pytest.main([*options, f"--benchmark-json={record}", str(tmp_path)]) == 0
    members = json.loads(record.read_text())["benchmarks"]
    assert [member["stats"]["median"] for member in members] == [8.0, 8.0]
    printed = capsys.readouterr().out
    for name in ("test_member[1.0]", "test_member[0.0625] (1/16 timed)"):
        (line,) = (line for line in printed.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[0] == "8.0000"


def test_no_benchmark_times_by_itself() -> None:
    files = [*BENCHMARKS.glob("bench_*.py"), BENCHMARKS / "conftest.py"]
    assert len(files) > 4
    for file in files:
        text = file.read_text()
        assert not re.search(r"\bbenchmark(\.pedantic|\.weave)?\(", text), file.name
