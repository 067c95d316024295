"""The table of a small space: its values are those that a search would measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tabular", reason="there are no benchmarks here")

import tabular
from autopatch.data import MVTecAD, Split, make_split
from autopatch.detector import Head
from autopatch.search import (
    CandidateEvaluator,
    LatencyTable,
    SearchSpace,
    compose_space,
    measure_table,
    resolve_objectives,
)
from autopatch.supernet import Supernet, load_supernet
from record import Record
from tabular import DRAWS, RESERVE, Exhaustive, Table

OBJECTIVES = resolve_objectives(["total_flops", "memory", "latency", "rwAP"])
Found = dict[tuple[int, ...], dict[str, list[float]]]


@pytest.fixture(scope="module")
def split(textures: Path) -> Split:
    return make_split(MVTecAD.scan(textures), shots=RESERVE, reserve=RESERVE, seed=0)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet("timm:test_efficientnet", "random", seed=2)


@pytest.fixture(scope="module")
def space(supernet: Supernet) -> SearchSpace:
    """48 architectures. The largest bank holds all patches of some."""
    choices = {
        **Head.off_choices(),
        "image_size": (64,),
        "bank_size": (20, 200),
        "neighbors": (1, 3),
        "defects": (None, 0.5),
        "smoothing": (0, 2),
        "distance": ("cosine",),
        "patch_size": (3,),
    }
    space = compose_space(supernet, choices=choices)
    levels = [gene.name for gene in space.genes if gene.is_level]
    return space.narrowed(dict.fromkeys(levels[:1] + levels[3:], False))


@pytest.fixture(scope="module")
def latency(supernet: Supernet, space: SearchSpace, split: Split) -> LatencyTable:
    images = [sample.image for sample in split.fit]
    return measure_table(supernet, space, good=images[2:], queries=images[:2], check=0)


@pytest.fixture(scope="module")
def table(
    supernet: Supernet,
    space: SearchSpace,
    split: Split,
    latency: LatencyTable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Table:
    path = tmp_path_factory.mktemp("table") / "textures"
    exhaustive = Exhaustive(supernet, split, latency)
    found = tabular.fill(path.with_suffix(".jsonl"), exhaustive, space, {})
    made = tabular.assemble(found, space, {"set": "textures"})
    made.save(path.with_suffix(".npz"))
    return Table.load(path.with_suffix(".npz"))


def test_the_table_holds_every_architecture_once(table: Table, space: SearchSpace) -> None:
    assert table.space == space
    assert len(table.places) == len(table.genomes) == space.size() == 48
    assert all(space.canonical(genome) == genome for genome in table.places)
    assert all(column.shape == (48, len(DRAWS)) for column in table.columns.values())
    assert table.about["set"] == "textures"


@pytest.mark.parametrize("draw", [1, 4, 6])
def test_its_values_are_those_of_the_evaluator_of_a_search(
    table: Table, supernet: Supernet, split: Split, latency: LatencyTable, draw: int
) -> None:
    shots = [shot for place, shot in enumerate(split.validation) if place % RESERVE in DRAWS[draw]]
    rows = np.random.default_rng(draw).choice(len(table.genomes), 6, replace=False)
    for column, scored, held_out in (
        ("test", split.test, split.holdout),
        ("validation", (*split.holdout, *shots), split.holdout),
    ):
        evaluate = CandidateEvaluator(
            supernet,
            fit=split.fit,
            scored=scored,
            shots=shots,
            held_out=held_out,
            objectives=OBJECTIVES,
            latency_table=latency,
        )
        for row in rows:
            expected = evaluate(table.space.decode(table.genomes[row])).values
            found = {name: values[row, draw] for name, values in table.columns.items()}
            assert found[column] == pytest.approx(expected["rwAP"], rel=1e-5)
            names = ["total_flops", "memory"]
            if column == "validation":  # what a search does is counted on its own hold-out images
                names.append("latency")
            for name in names:
                assert found[name] == pytest.approx(expected[name], rel=1e-9), name


def test_an_interrupted_run_goes_on(supernet: Supernet, space: SearchSpace, tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(architectures):
        calls.append(len(architectures))
        return {"test": [[a.head.smoothing, 0.1] for a in architectures]}

    evaluate.supernet = supernet
    path = tmp_path / "textures.jsonl"
    whole = tabular.fill(path, evaluate, space, {})
    assert len(whole) == sum(calls) == 48
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:100])  # stopped while it wrote
    calls.clear()
    assert tabular.fill(path, evaluate, space, {}) == whole
    assert sum(calls) == 48 - len(json.loads(lines[1])["genomes"])
    assert path.read_text().splitlines(keepends=True) == lines
    with pytest.raises(SystemExit, match="another setting"):
        tabular.fill(path, evaluate, space, {"split": "another"})


@pytest.mark.parametrize("left", [0, 5, 9, 17, 18])
def test_a_record_without_its_last_lines_goes_on(tmp_path: Path, left: int) -> None:
    path = tmp_path / "record.jsonl"
    Record(path, {"a": 1}).add({"b": 2})
    path.write_bytes(path.read_bytes()[:left])
    record = Record(path, {"a": 1})
    record.add({"b": 3})
    assert Record(path, {"a": 1}).results == [*([{"b": 2}] if left == 18 else []), {"b": 3}]
    with pytest.raises(SystemExit, match="holds results of another setting"):
        Record(path, {"a": 2})
