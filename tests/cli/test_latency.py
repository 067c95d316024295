"""The measure-latency command, and the options of cost and constraints."""

from __future__ import annotations

import json
import math

import pytest

from autopatch.cli.search import cost_of, latency_bound
from autopatch.cli.values import (
    share,
    with_unit,
)
from autopatch.errors import InputError
from autopatch.runs import Run
from autopatch.runs import latency as command
from autopatch.search import measure_table

SECONDS = {"ms": 1e-3, "s": 1.0}
BYTES = {"MB": 1e6, "MiB": 2.0**20}


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("10ms", SECONDS, 0.01),
        ("0.01s", SECONDS, 0.01),
        ("2.5ms", SECONDS, 0.0025),
        ("32MB", BYTES, 32e6),
        ("32MiB", BYTES, 32 * 2**20),
        (None, BYTES, None),
    ],
)
def test_units(text, units, value):
    assert with_unit("--x", text, units) == value


@pytest.mark.parametrize(
    "text",
    ["10", "ms", "10 ms", "10MS", "10min", "-10ms", "0ms", "1e3ms", "10ms ", "nan ms", ".5s"],
)
def test_other_units_are_refused(text):
    message = r"^--x is '.*', expected a number above 0 with a unit: 10ms or 10s$"
    with pytest.raises(InputError, match=message):
        with_unit("--x", text, SECONDS)
    message = r"^--max-latency is '.*', expected a time such as 10ms, a multiple of the PatchCore "
    with pytest.raises(InputError, match=message):
        latency_bound(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (None, None)),
        ("none", (None, math.inf)),
        ("2.5x", (None, 2.5)),
        ("2s", (2.0, None)),
    ],
)
def test_bounds_on_the_latency(text, expected):
    assert latency_bound(text) == expected


@pytest.mark.parametrize("value", [0, -0.5, 1.5, 90])
def test_shares_are_between_0_and_1(value):
    with pytest.raises(InputError, match="expected a number above 0 and at most 1"):
        share("--min-image-auroc", value)
    assert share("--min-image-auroc", 1) == 1


def test_costs_by_name():
    assert cost_of("latency") == "latency"
    assert cost_of("published") == "published_flops"
    for name in ("rwAP", "beauty"):
        with pytest.raises(InputError, match=f"`cost` is '{name}', expected latency or memory or"):
            cost_of(name)


def test_wrong_values_name_the_options(autopatch, textures, tmp_path):
    for option, value in (
        ("--max-latency", "10"),
        ("--max-memory", "32kg"),
        ("--min-image-auroc", "90"),
        ("--cost", "beauty"),
        ("--batch", "0"),
    ):
        code, _, err = autopatch("search", textures, "--out", tmp_path / "run", option, value)
        assert code == 2
        assert err.startswith(f"autopatch: {option} is ")
        assert err.count("\n") == 1


def test_a_table_is_measured_and_used(autopatch, textures, tmp_path, monkeypatch):
    monkeypatch.setattr(
        command, "measure_table", lambda *args, **options: measure_table(*args, **options, check=2)
    )
    space = ("--space", "timm:test_efficientnet", "--weights", "random")
    sizes = ("--image-sizes", "64", "--patch-sizes", "1,3", "--bank-sizes", "20")
    table = tmp_path / "table.json"
    code, out, err = autopatch("measure-latency", textures, *space, *sizes, "--out", table)
    assert code == 0, err
    assert "Random candidates, ms per image" in out
    assert "2 random candidates timed whole: median" in out
    assert json.loads(table.read_text())["machine"]["batch"] == 1
    code, out, err = autopatch(
        *("search", textures, *space, *sizes, "--latency-table", table),
        *("--max-latency", "10s", "--max-memory", "1GB", "--reserve", "2", "--evaluations", "2"),
        *("--out", tmp_path / "run"),
    )
    assert code == 0, err
    assert "latency: measured on " in out
    run = Run.open(tmp_path / "run")
    assert {c.name: c.bound for c in run.constraints} == {"latency": 10.0, "memory": 1e9}
