from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autopatch.detector import Architecture, Head, Input, MemoryBank
from autopatch.errors import InputError
from autopatch.search import OBJECTIVES, FittedCandidate, Objective, resolve_objectives
from autopatch.search.objectives import headings, measure_objectives
from autopatch.supernet import Backbone, load_supernet

ARCHITECTURE = Architecture(Input(64), Backbone("timm:resnet18", (1, 2)), Head((3, 1), 100))


def candidate(**changes: Any) -> FittedCandidate:
    bank = torch.zeros(changes.pop("bank_rows", 70), changes.pop("features", 30))
    head = SimpleNamespace(memory=MemoryBank(bank), defects=changes.pop("defects", ()))
    values: dict[str, Any] = {"supernet": None, "architecture": ARCHITECTURE, "head": head}
    return FittedCandidate(**(values | {"metrics": {"rwAP": 0.25}, "maps": ()} | changes))


def seconds(**changes: Any) -> Objective:
    values: dict[str, Any] = {
        "name": "seconds",
        "label": "run time (one image)",
        "unit": "ms",
        "scale": 1e-3,
        "direction": "minimize",
        "measure": lambda fitted: 0.5 * fitted.bank_rows,
    }
    return Objective(**(values | changes))


@pytest.fixture
def registered() -> Iterator[Objective]:
    OBJECTIVES.register("seconds", seconds())
    yield OBJECTIVES["seconds"]
    OBJECTIVES.unregister("seconds")


def test_losses_and_displayed_values() -> None:
    flops, rwap = resolve_objectives(["total_flops", "rwAP"])
    assert (flops.loss(7), flops.display(3e9)) == (7.0, 3.0)
    assert (rwap.loss(0.3), rwap.display(0.5)) == (1.0 - 0.3, 50.0)
    assert (flops.unit, rwap.unit) == ("GFLOP", "%")


@pytest.mark.parametrize(
    ("name", "unit", "short_name", "heading"),
    [
        ("total_flops", "GFLOP", "total", "GFLOP"),
        ("published_flops", "GFLOP", "published", "published GFLOP"),
        ("thr", "img/s", "thr", "thr img/s"),
        ("run_time", "ms", "run time", "run time ms"),
        ("total_flops", "", "total flops", "total flops"),
        ("total", "ms", "total", "total ms"),
        ("worth", "", "worth", "worth"),
        ("gflop", "GFLOP", "gflop", "gflop"),
    ],
)
def test_heading(name: str, unit: str, short_name: str, heading: str) -> None:
    objective = seconds(name=name, unit=unit)
    assert (objective.short_name, objective.heading) == (short_name, heading)


def test_headings_of_todays_objectives() -> None:
    assert OBJECTIVES["total_flops"].heading == "GFLOP"
    assert OBJECTIVES["published_flops"].heading == "published GFLOP"


def test_no_two_headings_are_equal() -> None:
    time, other = seconds(name="time_cpu"), seconds(name="time_gpu")
    assert headings([time, other]) == {"time_cpu": "time cpu ms", "time_gpu": "time gpu ms"}
    same = [seconds(name=name, unit="GFLOP") for name in ("macs", "macs_flops", "total_flops")]
    for units in (True, False):
        found = headings(same, units=units)
        assert list(found) == ["macs", "macs_flops", "total_flops"]
        assert len(set(found.values())) == 3


def test_what_is_measured_is_by_name_and_a_float() -> None:
    found = measure_objectives([OBJECTIVES["rwAP"], seconds()], candidate(bank_rows=4))
    assert found == {"rwAP": 0.25, "seconds": 2.0}
    assert list(found) == ["rwAP", "seconds"]
    (rows,) = measure_objectives([seconds(measure=lambda c: c.bank_rows)], candidate()).values()
    assert isinstance(rows, float)


def test_total_flops_are_those_of_backbone_and_neighbors() -> None:
    supernet = SimpleNamespace(
        flops=lambda backbone, size: 1000 if (backbone.levels, size) == ((1, 2), 64) else None,
        grid=lambda backbone, size: (size // 8, size // 8),
    )
    measured = OBJECTIVES["total_flops"].measure(candidate(supernet=supernet))
    assert measured == 1000 + 2 * 64 * 70 * 30
    known = candidate(supernet=supernet, defects=range(5))
    assert OBJECTIVES["total_flops"].measure(known) == 1000 + 2 * 64 * 75 * 30


def test_total_flops_of_a_supernet() -> None:
    supernet = load_supernet("timm:resnet18", "random")
    measured = OBJECTIVES["total_flops"].measure(candidate(supernet=supernet, features=192))
    backbone = supernet.flops(ARCHITECTURE.backbone, 64)
    assert backbone > 0
    assert measured == backbone + 2 * 16 * 16 * 70 * (64 + 128)


@pytest.mark.parametrize("metrics", [{}, {"rwAP": 1.5}, {"rwAP": -0.1}, {"rwAP": float("nan")}])
def test_rwap_is_a_metric_in_its_range(metrics: dict[str, float]) -> None:
    rwap = OBJECTIVES["rwAP"]
    assert rwap.measure(candidate()) == 0.25
    with pytest.raises(ValueError, match=r"rwAP"):
        rwap.measure(candidate(metrics=metrics))


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "up"},
        {"direction": 1},
        {"scale": 0},
        {"scale": "1"},
        {"name": ""},
        {"name": 3},
        {"label": ""},
        {"unit": None},
    ],
)
def test_objectives_out_of_range(change: dict[str, Any]) -> None:
    (field,) = change
    with pytest.raises(InputError, match=rf"objective .*{field} is "):
        seconds(**change)


def test_json_round_trip_needs_no_registry() -> None:
    read = Objective.from_json(json.loads(json.dumps(seconds().to_json())))
    assert read == seconds()
    assert read.to_json() == {
        "name": "seconds",
        "label": "run time (one image)",
        "unit": "ms",
        "scale": 1e-3,
        "direction": "minimize",
    }
    assert read.display(0.5) == 500
    with pytest.raises(InputError, match="objective 'seconds' is not registered in this process"):
        read.measure(candidate())


def test_what_was_read_is_measured_as_registered(registered: Objective) -> None:
    assert Objective.from_json(registered.to_json()).measure(candidate()) == 35.0


@pytest.mark.parametrize(
    "value", [None, [], {}, {"name": "seconds"}, seconds().to_json() | {"more": 1}]
)
def test_from_json_refuses_foreign_values(value: Any) -> None:
    with pytest.raises(InputError, match="expected a JSON object with"):
        Objective.from_json(value)


def test_objectives_by_name(registered: Objective) -> None:
    assert resolve_objectives(["rwAP", "seconds"]) == (OBJECTIVES["rwAP"], registered)
    with pytest.raises(InputError, match=r"objective is 'macs', expected one of 'latency', "):
        resolve_objectives(["macs", "rwAP"])
    for names in ([], ["rwAP", "rwAP"]):
        with pytest.raises(InputError, match=r"`objectives` are \["):
            resolve_objectives(names)
