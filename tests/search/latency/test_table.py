"""The latency table: what is read from it, what it covers, and its file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autopatch.detector import Architecture, GoodMaps, Head, Input, fit_head
from autopatch.errors import InputError
from autopatch.genes import Settings
from autopatch.kernels import SearchWork, least_search_work, search_work
from autopatch.search import LatencyTable, SearchSpace, compose_space, measure_table
from autopatch.search.latency import COMPONENTS, Case, TimedCandidate
from autopatch.search.latency.curves import interpolated, linear
from autopatch.search.latency.levels import covering_backbones
from autopatch.search.latency.neighbors import amounts
from autopatch.supernet import Supernet, load_supernet

from .conftest import Ticks


def case_of(supernet: Supernet, architecture: Architecture, *banks: int) -> Case:
    features = sum(level.channels for level in supernet.levels(architecture.backbone))
    works = tuple(least_search_work(rows, features) for rows in banks or (40,))
    return Case(supernet, architecture, works)


def candidates(supernet: Supernet, space: SearchSpace, count: int = 20) -> list[Case]:
    rng = np.random.default_rng(0)
    return [case_of(supernet, space.decode(space.sample(rng))) for _ in range(count)]


def test_the_latency_is_the_sum_of_the_parts(
    table: LatencyTable, supernet: Supernet, search_space: SearchSpace
) -> None:
    deepest = supernet.largest().levels[-1]
    for case in candidates(supernet, search_space):
        parts = table.parts(case)
        ends = len(supernet.stages(case.architecture.backbone))
        if case.architecture.backbone.levels[-1] == deepest:
            ends += 1  # the clock is also read at the end
        assert parts["backbone"] == pytest.approx(1e-3 * ends)
        assert parts["aggregation"] == pytest.approx(1e-3)
        assert table.seconds(case) == pytest.approx(sum(parts.values()))
        assert table.seconds(case) == table.seconds(case)


def test_each_bank_is_searched(
    table: LatencyTable, supernet: Supernet, search_space: SearchSpace
) -> None:
    architecture = candidates(supernet, search_space)[0].architecture
    one, two = (table.parts(case_of(supernet, architecture, *banks)) for banks in ((40,), (40, 40)))
    assert two["nearest_neighbors"] == pytest.approx(2 * one["nearest_neighbors"])
    assert {**two, "nearest_neighbors": 0} == {**one, "nearest_neighbors": 0}


def test_a_batch_is_shared_by_its_images(
    table: LatencyTable, supernet: Supernet, search_space: SearchSpace
) -> None:
    of_eight = replace(table, machine=replace(table.machine, batch=8))
    case = candidates(supernet, search_space)[0]
    assert of_eight.parts(case)["backbone"] == pytest.approx(table.parts(case)["backbone"] / 8)


def test_interpolation_is_linear_in_logarithms() -> None:
    curve = {100: 1.0, 1000: 10.0, 4000: 20.0}
    assert interpolated(curve, 316.2278) == pytest.approx(3.162278)
    assert interpolated(curve, 2000) == pytest.approx(math.sqrt(200))
    assert interpolated(curve, 8000) == pytest.approx(20 * math.sqrt(2))  # goes on
    assert interpolated(curve, 8000, clamped=True) == 20
    assert interpolated(curve, 10) == pytest.approx(0.1)
    assert interpolated({7: 3.0}, 100) == 3
    falling = {500: 5.0, 2000: 2.0}  # a larger bank is searched in another way
    assert interpolated(falling, 1000) == pytest.approx(math.sqrt(10))
    assert interpolated(falling, 100) == 5
    assert interpolated(falling, 9000) == 2


def test_queries_are_read_off_a_line() -> None:
    assert linear({64: 1.0, 1024: 5.0}, 544) == pytest.approx(3.0)
    assert linear({64: 1.0, 1024: 5.0}, 1984) == pytest.approx(9.0)
    assert linear({64: 1.0}, 128) == pytest.approx(2.0)
    assert linear({64: 2.0, 1024: 1.0}, 2048) == pytest.approx(1.0)  # never less for more


def test_a_file_is_the_table(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    loaded = LatencyTable.load(str(path))
    assert loaded.to_json() == table.to_json()
    assert loaded.digest == table.digest
    assert json.loads(path.read_text())["machine"]["threads"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "recipe"}, "not a latency table, expected a file of `autopatch measure-lat"),
        (
            {"version": 1},
            "a latency table of version 1, expected 2; measure it anew, or search anew",
        ),
        ({"machine": {}}, "a damaged latency table"),
        ({"components": {"fan": {}}}, "a latency table with the unknown component 'fan'"),
    ],
)
def test_other_files_are_refused(
    table: LatencyTable, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table.to_json(), **change}))
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        LatencyTable.load(path)
    path.write_text("[")
    with pytest.raises(InputError, match="not readable as JSON"):
        LatencyTable.load(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        LatencyTable.load(tmp_path / "none.json")


def test_a_table_covers_its_space_alone(
    table: LatencyTable, supernet: Supernet, search_space: SearchSpace
) -> None:
    table.require(supernet, search_space, 1, "t")
    wider = compose_space(supernet, choices={"image_size": (64, 256)})
    with pytest.raises(InputError, match=r"^t: the latency table covers the image sizes 64 to 224"):
        table.require(supernet, wider, 1, "t")
    with pytest.raises(InputError, match=r"^t: a table of batches of 1, expected those of 4; give"):
        table.require(supernet, search_space, 4, "t")
    other = load_supernet("timm:test_efficientnet", "random", seed=1)
    with pytest.raises(InputError, match=r"^t: a table of other weights"):
        table.require(other, search_space, 1, "t")
    with pytest.raises(InputError, match=r"^t: a table of timm:x, expected one of timm:test_eff"):
        replace(table, space="timm:x").require(supernet, search_space, 1, "t")
    fixed = search_space.narrowed({"use_stride4": False, "use_stride8": False})
    deep = {k: v for k, v in table.components["aggregation"].items() if not k.startswith("4:")}
    lacking = replace(table, components={**table.components, "aggregation": deep})
    lacking.require(supernet, fixed, 1, "t")
    with pytest.raises(InputError, match="no set of levels whose finest stride is 4"):
        lacking.require(supernet, search_space, 1, "t")


def test_a_candidate_outside_the_table_is_refused(table: LatencyTable, supernet: Supernet) -> None:
    large = Architecture(Input(512), supernet.largest((2,)), Head((3,), 40))
    with pytest.raises(InputError, match="covers the image sizes 64 to 224, but not 512"):
        table.seconds(case_of(supernet, large))
    smooth = Architecture(Input(64), supernet.largest((2,)), Head((3,), 40, smoothing=3.0))
    with pytest.raises(InputError, match=r"has no smoothing '3.0'"):
        table.seconds(case_of(supernet, smooth))


def test_the_check_compares_with_candidates_timed_whole(table: LatencyTable) -> None:
    assert len(table.check) == 3
    for one in table.check:
        assert one.measured == pytest.approx(1e-3)
    checked = replace(
        table,
        check=[TimedCandidate(n, p, 1.0) for n, p in (("a", 1.1), ("b", 0.8), ("c", 1.0))],
        disturbed=0.25,
    )
    assert checked.median_error == pytest.approx(0.1)
    assert checked.worst_error == pytest.approx(0.2)
    assert checked.describe().endswith(
        "1 thread, batch 1; error of 3 random candidates timed whole: median 10 %, worst 20 %; "
        "25 % of the samples were disturbed"
    )


def test_options_of_the_head_are_covered(supernet: Supernet, images: list[Path]) -> None:
    choices: dict[str, tuple[Any, ...]] = {
        "image_size": (64,),
        "patch_size": (1,),
        "bank_size": (10,),
        "neighbors": (1, 3),
        "smoothing": (0, 2.0),
        "distance": ("squared_l2", "cosine"),
        "defects": (None, 0.5),
        "projection": (None, 8),
    }
    space = compose_space(supernet, choices=choices)
    table = measure_table(
        supernet, space, good=images[:4], queries=images[4:], check=4, clock=Ticks()
    )
    table.require(supernet, space, 1, "t")
    plain = Architecture(Input(64), supernet.largest((2,)), Head((1,), 10))
    steps = Settings({"distance": "cosine"})
    rich = replace(plain, head=replace(plain.head, neighbors=3, smoothing=2.0, steps=steps))
    parts = table.parts(case_of(supernet, rich, 10))
    assert parts["steps"] == pytest.approx(1e-3)
    assert table.parts(case_of(supernet, plain, 10))["steps"] == 0
    few = replace(plain, head=replace(plain.head, steps=Settings({"projection": 8})))
    assert table.parts(case_of(supernet, few, 10))["steps"] == pytest.approx(1e-3)
    unknown = replace(plain, head=replace(plain.head, steps=Settings({"projection": 16})))
    with pytest.raises(InputError, match="the latency table has no step 'projection 16'"):
        table.seconds(case_of(supernet, unknown))


RATES = {
    "call": 5e-5,
    "query": 3e-7,
    "feature": 1e-10,
    "product": 1e-10,
    "group": 8e-9,
    "code": 2e-11,
    "visit": 4e-8,
    "distance": 3e-9,
    "difference": 1e-10,
}


def seconds_of(queries: int, work: SearchWork) -> float:
    per_query = (
        RATES["query"]
        + RATES["feature"] * work.features
        + RATES["product"] * work.features * work.codes * work.is_projected
        + work.groups * (RATES["group"] + 64 * RATES["code"] * work.codes)
        + RATES["visit"] * work.visits
        + work.distances * (RATES["distance"] + RATES["difference"] * work.features)
    )
    return RATES["call"] + queries * per_query


def test_the_rates_of_searches_are_found_from_their_work(supernet: Supernet) -> None:
    rng = np.random.default_rng(0)
    searches = []
    for features, codes in ((32, 32), (64, 16), (300, 300), (448, 48)) * 10:
        rows = int(rng.choice((100, 1000, 20_000, 300_000)))
        work = SearchWork(
            rows,
            features,
            codes,
            codes < features,
            groups=-(-rows // 64),
            distances=float(rng.uniform(1, 500)),
            visits=float(rng.uniform(1, 40)),
        )
        searches.append((int(rng.choice((16, 128, 1024))), work))
    component = COMPONENTS["nearest_neighbors"]
    rates = component.values([(amounts(*each), [seconds_of(*each)]) for each in searches])
    assert rates == pytest.approx(RATES, rel=1e-6)
    architecture = Architecture(Input(64), supernet.largest((2,)), Head((3,), 40))
    works = tuple(work for _, work in searches[:2])
    case = Case(supernet, architecture, works)
    expected = sum(seconds_of(case.queries, work) for work in works)
    assert component.seconds(rates, case) == pytest.approx(expected)


def test_on_a_gpu_the_size_of_the_bank_counts(table: LatencyTable, supernet: Supernet) -> None:
    work = least_search_work(1000, 64)
    assert dict(amounts(10, work, on_gpu=True)) == {
        "call": 1,
        "query": 10,
        "row": 10_000,
        "value": 640_000,
    }
    rates = {"call": 1e-4, "query": 1e-6, "row": 1e-9, "value": 1e-11}
    of_gpu = replace(
        table,
        machine=replace(table.machine, device="NVIDIA H200"),
        components={"nearest_neighbors": rates},
    )
    assert table.needs_counts
    assert not of_gpu.needs_counts
    architecture = Architecture(Input(64), supernet.largest((2,)), Head((3,), 40))
    case = Case(supernet, architecture, (work,))
    queries = case.queries
    expected = 1e-4 + queries * (1e-6 + 1000 * 1e-9 + 64_000 * 1e-11)
    assert of_gpu.seconds(case) == pytest.approx(expected)
    lacking = {kind: rate for kind, rate in rates.items() if kind != "query"}
    with pytest.raises(InputError, match="has no rate of nearest neighbors 'query'"):
        COMPONENTS["nearest_neighbors"].require(lacking, supernet, compose_space(supernet))


def test_what_a_candidate_does_is_counted(supernet: Supernet) -> None:
    maps = [torch.rand(12, 5, 16, 16, generator=torch.Generator().manual_seed(0))]
    head = Head((3,), 200, neighbors=3, defects=0.5)
    fitted = fit_head(GoodMaps.of([m[:4] for m in maps]), head, size=32)
    known = fitted.knowing(fitted.memory.bank, fitted.memory.bank[:20], usual=1.0)
    architecture = Architecture(Input(64), supernet.largest((2,)), head)
    case = Case.of(supernet, architecture, known, [m[4:] for m in maps], counted=True)
    memory, defects = case.searches
    queries = known.aggregator([m[4:] for m in maps])
    assert (memory.rows, memory.features, defects.rows) == (200, 5, 20)
    exact = search_work(queries, known.memory.index, 3)
    assert memory.distances == pytest.approx(exact.distances, rel=0.1)  # of a sample
    assert memory.distances > search_work(queries, known.memory.index, 1).distances
    least = Case.of(supernet, architecture, known, [m[4:] for m in maps], counted=False)
    assert least.searches == (least_search_work(200, 5), least_search_work(20, 5))


def test_stages_of_an_elastic_network_are_covered() -> None:
    supernet = load_supernet("autopatch_s")
    space = compose_space(supernet)
    covering = covering_backbones(supernet, space)
    assert len(covering) < 20
    stages = {stage for backbone in covering for stage in supernet.stages(backbone)}
    rng = np.random.default_rng(3)
    for _ in range(100):
        assert stages.issuperset(supernet.stages(space.decode(space.sample(rng)).backbone))
