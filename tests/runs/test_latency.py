"""Searches by latency: the table is measured once, stored, reused and resumed exactly."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import autopatch
from autopatch.errors import InputError
from autopatch.runs import Run, measure_latency, run_search
from autopatch.runs import latency as command
from autopatch.runs import latency_bound as searching
from autopatch.search import LatencyTable, measure_table

SPACE: dict[str, Any] = {
    "space": "timm:test_efficientnet",
    "weights": "random",
    "choices": {"image_size": (64, 96), "patch_size": (1, 5), "bank_size": (20, 40)},
}
SETTINGS: dict[str, Any] = {**SPACE, "reserve": 2, "evaluations": 3, "population": 2}


class Ticks:
    """A clock that goes on by a growing step whenever it is read."""

    def __init__(self) -> None:
        self.time, self.step = 0.0, 1e-3

    def now(self) -> float:
        self.step += 1e-6
        self.time += self.step
        return self.time

    def reference(self) -> float:
        return 1.0


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tables are measured with the clock above and a small check; the list grows with each."""
    calls: list[int] = []

    def measure(*arguments: Any, **options: Any) -> LatencyTable:
        calls.append(1)
        return measure_table(*arguments, **options, check=2, clock=Ticks())

    for module in (command, searching):
        monkeypatch.setattr(module, "measure_table", measure)
    return calls


@pytest.fixture(scope="module")
def table_file(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("table") / "table.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            command,
            "measure_table",
            lambda *args, **options: measure_table(*args, **options, check=2, clock=Ticks()),
        )
        autopatch.measure_latency(str(textures), str(file), **SPACE)
    return file


def results(run: Run) -> list[Any]:
    return [(t.genome, t.evaluation and t.evaluation.values) for t in run.trials]


def test_latency_is_the_default_cost_and_its_table_is_stored(
    textures: Path, tmp_path: Path, measured: list[int]
) -> None:
    run = run_search(textures, tmp_path / "run", **SETTINGS | {"evaluations": 1})
    assert [objective.name for objective in run.objectives] == ["latency", "robust_rwAP"]
    assert run.latency_table is not None
    assert len(run.latency_table.check) == 2
    assert measured == [1]
    values = [t.evaluation.values["latency"] for t in run.trials if t.evaluation]
    assert all(value > 0 for value in values)


def test_a_resumed_search_is_the_search_without_interruption(
    textures: Path, tmp_path: Path, table_file: Path, measured: list[int]
) -> None:
    whole = run_search(textures, tmp_path / "whole", **SETTINGS, latency_table=table_file)
    half = {**SETTINGS, "evaluations": 2}
    run_search(textures, tmp_path / "half", **half, latency_table=table_file)
    resumed = run_search(textures, tmp_path / "half", **SETTINGS, resume=True)
    assert results(resumed) == results(whole)
    assert resumed.latency_table == whole.latency_table
    assert measured == []

    other = LatencyTable.load(table_file)
    other = replace(other, disturbed=0.5)
    with pytest.raises(InputError, match='started with `latency_table` = "'):
        run_search(textures, tmp_path / "half", **SETTINGS, resume=True, latency_table=other)
    with pytest.raises(InputError, match="a table of batches of 1, expected those of 2"):
        run_search(textures, tmp_path / "half", **SETTINGS, resume=True, batch=2)


def test_total_flops_need_no_table(textures: Path, tmp_path: Path, table_file: Path) -> None:
    flops = {**SETTINGS, "evaluations": 2, "objectives": ("total_flops", "rwAP")}
    run = run_search(textures, tmp_path / "run", **flops)
    assert run.latency_table is None
    with pytest.raises(InputError, match="the search was started without a latency"):
        run_search(textures, tmp_path / "run", **SETTINGS, resume=True)
    with pytest.raises(InputError, match="`latency_table` is given, but nothing in the search"):
        run_search(textures, tmp_path / "other", **flops, latency_table=table_file)


def test_detectors_take_at_most_a_multiple_of_the_baseline(
    textures: Path, tmp_path: Path, table_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # Known defects add rows that are not counted before a detector is fitted.
    settings = {**SETTINGS, "choices": {**SPACE["choices"], "defects": (None,)}}
    options = {**settings, "latency_table": table_file}
    usual = run_search(textures, tmp_path / "usual", **options)
    (bound,) = usual.constraints
    assert bound.name == "latency"
    assert f"at most {1e3 * bound.bound:.1f} ms per image, 4 times the PatchCore" in caplog.text

    factor = 0.99 * max(_latencies(usual)) / (bound.bound / 4)
    faster = run_search(textures, tmp_path / "faster", **options, latency_factor=factor)
    assert max(_latencies(faster)) < 0.99 * max(_latencies(usual)) * (1 + 1e-12)
    assert len(faster.trials) == len(usual.trials)
    half = {**options, "evaluations": 2, "latency_factor": factor}
    run_search(textures, tmp_path / "half", **half)
    resumed = run_search(
        textures, tmp_path / "half", **settings, latency_factor=factor, resume=True
    )
    assert results(resumed) == results(faster)

    again = run_search(textures, tmp_path / "half", **settings, resume=True)
    assert again.constraints == faster.constraints  # a resumed search keeps its bound

    free = {**options, "evaluations": 1}
    run = run_search(textures, tmp_path / "free", **free, latency_factor=math.inf)
    assert run.constraints == ()
    assert run_search(textures, tmp_path / "free", **settings, resume=True).constraints == ()
    for arguments, message in (
        ({"latency_factor": 0.0}, "`latency_factor` is 0.0, expected a number above 0"),
        ({"latency_factor": 1.0, "constraints": {"latency": 1.0}}, "bound the latency already"),
        ({"latency_factor": 1e-3}, "^latency at most .* ms: expected a higher bound, since the"),
    ):
        with pytest.raises(InputError, match=message):
            run_search(textures, tmp_path / "none", **options, **arguments)
    assert not (tmp_path / "none").exists()


def _latencies(run: Run) -> list[float]:
    return [trial.evaluation.values["latency"] for trial in run.trials if trial.evaluation]


def test_constraints_of_a_search(textures: Path, tmp_path: Path, table_file: Path) -> None:
    options = {**SETTINGS, "evaluations": 2, "latency_table": table_file}
    memory = {"memory": 1.0, "image_AUROC": 0.01}
    run = run_search(textures, tmp_path / "run", **options, constraints=memory)
    assert run.front.note is not None
    assert "none of 2 candidates meets the constraints; the nearest is trial" in run.front.note
    assert "MB (at most 1e-06 MB)" in run.front.note
    bytes_held = [t.evaluation.bounded["memory"] for t in run.trials if t.evaluation]
    assert len(run.front.trials) == 1
    least = min(bytes_held)
    enough = {"memory": least, "latency": 1e3}
    bounded = run_search(textures, tmp_path / "enough", **options, constraints=enough)
    held = [t.evaluation.bounded["memory"] for t in bounded.front.trials if t.evaluation]
    assert held
    assert all(value <= least for value in held)
    assert bounded.front.note is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": {"image_size": (64, 256)}}, "image sizes 64 to 224, but not 256"),
        ({"space": "elastic:test_efficientnet"}, "a table of timm:test_efficientnet, expected"),
        ({"seed": 3}, "a table of other weights"),
        ({"batch": 2}, "a table of batches of 1, expected those of 2; give `batch`"),
    ],
)
def test_a_table_of_another_search_is_refused(
    textures: Path, tmp_path: Path, table_file: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^`latency_table`: .*{message}"):
        run_search(textures, tmp_path / "run", **{**SETTINGS, **change}, latency_table=table_file)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "`threads` is 0, expected at least 1"),
        ({"batch": 0}, "`batch` is 0, expected at least 1"),
        ({"preset": "x"}, "`preset` is 'x'"),
        ({"fixed": {"x": 1}}, "`fixed`: "),
        ({"fixed": {"smoothing": 99}}, "smoothing is 99, expected 0 to 32 pixels"),
        ({"images": "nowhere"}, "nowhere: no such folder, expected images"),
        ({"images": ["one.png"]}, "`images` has 1, expected at least two good images"),
    ],
)
def test_mistakes_of_a_measurement(
    textures: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arguments = {"images": textures, "out": tmp_path / "t.json", **SPACE, **change}
    with pytest.raises(InputError, match=message):
        measure_latency(**arguments)
    assert not (tmp_path / "t.json").exists()


def test_a_table_is_not_overwritten(textures: Path, table_file: Path) -> None:
    before = table_file.read_bytes()
    with pytest.raises(InputError, match=r"exists; remove it or give another `out`"):
        measure_latency(textures, table_file, **SPACE)
    assert table_file.read_bytes() == before


def test_threads_are_those_of_the_measurement_alone(textures: Path, tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    table = measure_latency(textures, tmp_path / "t.json", **SPACE, threads=before + 1, batch=2)
    assert torch.get_num_threads() == before
    assert (table.machine.threads, table.machine.batch) == (before + 1, 2)


def test_the_report_tells_the_error_of_the_table(
    textures: Path, tmp_path: Path, table_file: Path
) -> None:
    run = run_search(
        textures,
        tmp_path / "run",
        **SETTINGS,
        latency_table=table_file,
        constraints={"memory": 1e9},
    )
    page = run.report().read_text(encoding="utf-8")
    assert "error of 2 random candidates timed whole: median" in page
    assert "memory at most 1000.00 MB" in page
    assert re.search(r"from the cache.*% of the coresets, \d+ % of the feature maps, \d+ %", page)
    results = run.fit() and run.evaluate()
    assert {row.kind for row in results.rows} >= {"fitted", "patchcore"}
    assert all(row.values["latency"] > 0 for row in results.rows)
