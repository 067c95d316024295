"""Optimizers on a small table with made-up values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymoo.indicators.hv import HV

pytest.importorskip("optimizers", reason="there are no benchmarks here")

import optimizers
from autopatch.detector import Head, patchcore_architecture
from autopatch.search import NSGA2, TPE, Score, compose_space
from autopatch.supernet import load_supernet
from optimizers import (
    SMSEMOA,
    SPEA2,
    UNSGA3,
    WARM_STARTS,
    Configuration,
    Problem,
    RandomSearch,
)
from tabular import Table, all_genomes

STRIDES = (4, 8, 16)
GENETIC = (NSGA2, SMSEMOA, SPEA2, UNSGA3)


@pytest.fixture(scope="module")
def table() -> Table:
    """208 architectures and two draws: more patches cost more, and the best patch size is 3."""
    supernet = load_supernet("timm:test_efficientnet", "random")
    choices = {
        **Head.off_choices(),
        "image_size": (160, 224),
        "bank_size": (500, 2000),
        "defects": (None, 0.5),
        "patch_size": (1, 3),
    }
    space = compose_space(supernet, choices=choices)
    space = space.narrowed({"use_stride32": False})
    genomes = all_genomes(space)
    latency, quality = [], []
    for architecture in map(space.decode, genomes):
        head, levels = architecture.head, architecture.backbone.levels
        patches = (architecture.input.size / (2 << levels[0])) ** 2
        latency.append(1e-3 + 1e-8 * patches * head.bank_size)
        level_worth = dict(zip(STRIDES, (0.2, 0.3, 0.1), strict=True))
        worth = 1e-4 * architecture.input.size + 0.1 * (head.defects is not None)
        for level, patch_size in zip(levels, head.patch_sizes, strict=True):
            worth += level_worth[2 << level] * patch_size / 3
        quality.append(worth)
    noise = np.stack([np.ones(len(genomes)), np.linspace(0.9, 1.0, len(genomes))], axis=1)
    columns = {
        "latency": np.stack([latency, latency], axis=1),
        "validation": noise * np.array(quality)[:, None],
    }
    return Table(space, ((0,), (0, 1)), np.array(genomes, np.uint8), columns, {"fit_images": "75"})


def test_the_hypervolume_is_that_of_pymoo() -> None:
    points = np.random.default_rng(0).random((40, 2))
    expected = HV(ref_point=np.zeros(2))(-points)
    assert optimizers._area(points) == pytest.approx(expected)
    assert optimizers._area(points[:1]) == pytest.approx(points[0].prod())


@pytest.mark.parametrize("optimizer", [RandomSearch, TPE])
def test_a_curve_rises(table: Table, optimizer: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "EVALUATIONS", 30)
    curve = Configuration(optimizer).curve(Problem(table, 1), seed=0)
    assert curve.shape == (30,)
    assert (np.diff(curve) >= -1e-12).all()
    assert 0 <= curve[0] < curve[-1] <= 1


def test_all_architectures_have_the_whole_hypervolume(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "EVALUATIONS", len(table.genomes) + 5)
    curve = Configuration(NSGA2, {"population": 12}).curve(Problem(table, 0), seed=0)
    assert len(curve) == 213  # the space has 208
    assert curve[-1] == pytest.approx(1)
    assert curve[100] < 1


@pytest.mark.parametrize("optimizer", GENETIC)
@pytest.mark.parametrize("offspring", [None, 1])
def test_genetic_optimizers_find_more_than_random_search(
    table: Table, optimizer: type, offspring: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "EVALUATIONS", 60)
    problem = Problem(table, 0)

    def found(configuration: Configuration) -> float:
        return float(np.mean([configuration.curve(problem, seed)[-1] for seed in range(6)]))

    options = {"population": 8} | ({"offspring": offspring} if offspring else {})
    assert found(Configuration(optimizer, options)) > found(Configuration(RandomSearch))


@pytest.mark.parametrize("optimizer", GENETIC)
def test_generations_have_the_size_that_was_asked_for(table: Table, optimizer: type) -> None:
    asking = optimizer(table.space, seed=0, population=8, offspring=3)
    counts = []
    proposed = set()
    for _ in range(5):
        asked = asking.ask()
        counts.append(len(asked))
        proposed.update(asked)
        asking.tell([Score((sum(genome) + 1.0, 1 / (sum(genome) + 1))) for genome in asked])
    assert counts == [8, 3, 3, 3, 3]
    assert len(proposed) == 20


def test_warm_starts_are_architectures_of_the_space(table: Table) -> None:
    for name, make in WARM_STARTS.items():
        genomes = make(table)
        assert len(set(genomes)) == len(genomes) == {
            "nothing": 0, "PatchCore": 1, "named": 7, "corners": 7, "named and corners": 13
        }[name]  # fmt: skip
        assert set(genomes) <= table.places.keys()
    (baseline,) = WARM_STARTS["PatchCore"](table)
    expected = patchcore_architecture(load_supernet("timm:test_efficientnet", "random"), images=75)
    found = table.space.decode(baseline)
    assert (found.backbone, found.input) == (expected.backbone, expected.input)
    assert found.head.patch_sizes == expected.head.patch_sizes


def test_results_are_kept(
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(optimizers, "EVALUATIONS", 100)
    monkeypatch.setattr(optimizers, "SHOWN", (25, 50, 100))
    monkeypatch.setattr(optimizers, "SEEDS", 2)
    monkeypatch.setattr(optimizers, "REFERENCE", Configuration(RandomSearch))
    chosen = [Configuration(RandomSearch), Configuration(NSGA2, {"population": 12}, "named")]
    monkeypatch.setattr(optimizers, "DEFAULT", chosen[1])
    found = optimizers.curves(tmp_path / "made.jsonl", table, chosen)
    assert {name: of.shape for name, of in found.items()} == {
        "random": (2, 100),
        "NSGA-II, population 12; first named": (2, 100),
    }
    monkeypatch.setattr(Configuration, "curve", None)  # nothing is computed anew
    again = optimizers.curves(tmp_path / "made.jsonl", table, chosen)
    assert all((again[name] == of).all() for name, of in found.items())
    capsys.readouterr()
    optimizers.print_table(found)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| NSGA-II, population 12; first named",
        "| random",
    ]
    assert int(rows[0].split(" | ")[-1].strip(" |")) < int(rows[1].split(" | ")[-1].strip(" |"))
    optimizers.draw_figure({"made": found}, tmp_path / "made.png")
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")
