"""One call for a search."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from autopatch.data import MVTecAD, Sample
from autopatch.errors import InputError, MachineError
from autopatch.runs import Run, run_search
from autopatch.runs.latency import find_space
from autopatch.search import (
    OBJECTIVES,
    CandidateEvaluator,
    Evaluation,
    FittedCandidate,
    Objective,
    load_trials,
)
from autopatch.supernet import load_supernet

SMALL = {
    "space": "timm:test_efficientnet",
    "weights": "random",
    "reserve": 2,
    "evaluations": 4,
    "population": 3,
    "objectives": ("total_flops", "rwAP"),
    "choices": {"image_size": (64, 96), "patch_size": (1, 5), "bank_size": (20, 40)},
}


def results(run):
    return [(t.genome, t.evaluation.values, t.evaluation.metrics) for t in run.trials]


@pytest.fixture(scope="module")
def data(origin) -> Path:
    return origin / "data"


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory) -> Run:
    return run_search(str(data), str(tmp_path_factory.mktemp("small") / "run"), **SMALL)


def test_two_workers_find_the_same_front(data, expected, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        run = run_search(data, tmp_path / "run", executor=pool, workers=2, **SMALL)
    assert [t.genome for t in run.front.trials] == [t.genome for t in expected.front.trials]
    assert sorted(results(run), key=str) == sorted(results(expected), key=str)
    assert run.pick.architecture == expected.pick.architecture


def test_maps_that_are_not_kept_change_nothing(data, expected, tmp_path):
    run = run_search(data, tmp_path / "run", cache_gib=0, **SMALL)
    assert results(run) == results(expected)


@dataclass(frozen=True)
class Mine:
    """A data set of another class, with the images of a given one."""

    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    types: tuple[str, ...]
    notes: tuple[str, ...] = ()


def test_a_data_set_in_place_of_a_folder(data, expected, tmp_path):
    folder = MVTecAD.scan(data)
    mine = Mine(folder.root, folder.train, folder.test, folder.types)
    run = run_search(mine, tmp_path / "run", **SMALL)
    assert results(run) == results(expected)
    assert run.data_digest == expected.data_digest
    run.fit()
    again = run_search(mine, tmp_path / "run", resume=True, **SMALL)
    assert results(again) == results(expected)
    with pytest.raises(InputError, match="groups of its own"):
        run_search(mine, tmp_path / "other", group_regex="x", **SMALL)


def test_seeds_of_their_own(data, expected, tmp_path):
    same = run_search(data, tmp_path / "same", split_seed=0, **SMALL)
    assert results(same) == results(expected)
    single = SMALL | {"evaluations": 1}
    split = run_search(data, tmp_path / "split", split_seed=1, **single)
    assert split.split.fit != expected.split.fit
    assert (split.seed, split.split.seed) == (0, 1)
    seeds = {"seed": 1, "split_seed": 0}
    optimizer = run_search(data, tmp_path / "optimizer", **SMALL | {"evaluations": 2}, **seeds)
    assert optimizer.split == expected.split
    assert [t.genome for t in optimizer.trials] != [t.genome for t in expected.trials[:2]]


def test_images_outside_the_root_are_refused(data, tmp_path):
    folder = MVTecAD.scan(data)
    mine = Mine(folder.root / "train", folder.train, folder.test, folder.types)
    with pytest.raises(InputError, match="not under"):
        run_search(mine, tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_relative_folder(data, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    run = run_search("data", tmp_path / "run", **SMALL)
    assert results(run) == results(expected)
    monkeypatch.chdir(tmp_path)
    Run.open("run").require_same_data()


def test_an_objective_of_ones_own(data, tmp_path):
    def rows(candidate: FittedCandidate) -> float:
        return candidate.bank_rows

    OBJECTIVES.register("rows", Objective("rows", "rows of the bank", "", 1.0, "minimize", rows))
    try:
        options = {"objectives": ["rows", "rwAP"], "fixed": {"defects": None}}
        run = run_search(data, tmp_path / "run", **SMALL | options)
    finally:
        OBJECTIVES.unregister("rows")
    assert {t.evaluation.values["rows"] for t in run.trials} <= {20, 40}
    opened = Run.open(run.path)
    assert [o.name for o in opened.objectives] == ["rows", "rwAP"]
    assert opened.pick == run.pick
    # Nothing of it is measured in this process any more, and that is said.
    opened.fit()
    with pytest.raises(InputError, match="objective 'rows' is not registered in this process"):
        opened.evaluate()


def test_progress_is_told(data, tmp_path):
    told = []
    run_search(data, tmp_path / "run", progress=lambda *step: told.append(step), **SMALL)
    assert ("search", 0, 4) in told
    assert [done for step, done, _ in told if step.startswith("search: front of")] == [1, 2, 3, 4]
    assert {step for step, _, _ in told} >= {"read images", "search"}


@pytest.mark.parametrize(
    ("other", "fragment"),
    [
        ({"shots": 0}, "`shots` is 0, so the search has no anomalous images, but it measures rwAP"),
        ({"rule": "luck"}, "rule is 'luck', expected one of 'robust', 'best', 'knee'"),
        ({"cost": "memory"}, "`cost` and `objectives` are both given"),
        ({"objectives": None, "cost": "weight"}, "objective is 'weight', expected one of"),
        ({"objectives": None, "kinds": ["rust"]}, "`kinds` is 'rust', expected one of"),
        ({"objectives": None, "per_kind": 0}, "`per_kind` is 0, expected at least 1"),
        ({"space": "nas:x"}, "search space 'nas:x' is unknown"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"preset": "published"}, "`preset` is 'published'"),
        ({"objectives": ["flops"]}, "objective is 'flops', expected one of"),
        ({"objectives": ["rwAP", "rwAP"]}, "none twice"),
        ({"choices": {"image_sizes": (64,)}}, "image_sizes"),
        ({"fixed": {"kernel_size": 3}}, "`fixed`: "),
        ({"sampler": "annealing"}, "annealing"),
        ({"protocol": "annealing"}, "annealing"),
        ({"device": "gpu"}, "`device` is 'gpu'"),
        ({"cache_gib": -1}, "`cache_gib` is -1"),
        ({"workers": 0}, "`workers` is 0, expected at least 1"),
        ({"reserve": 9}, "9"),
    ],
)
def test_mistakes_leave_nothing_behind(data, tmp_path, other, fragment):
    with pytest.raises(InputError, match=fragment) as error:
        run_search(data, tmp_path / "run", **SMALL | other)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_field_of_the_head_is_fixed_to_any_value():
    supernet = load_supernet("timm:test_efficientnet", "random")
    fixed = {"defects": None, "smoothing": 1.5, "level_weight": 3.0, "image_size": 224}
    space = find_space(supernet, supernet.presets["default"], None, fixed)
    assert space.choices("head", "defects") == []  # off
    assert space.choices("head", "smoothing") == [1.5]
    assert set(space.choices("head", "level_weight")) == {3.0}
    assert space.choices("input", "image_size") == [224]


def test_fixed_genes_of_a_fixed_field():
    supernet = load_supernet("timm:test_efficientnet", "random")
    preset = supernet.presets["default"]
    gene = next(g.name for g in supernet.genes() if g.is_level).replace("use", "level_weight")
    space = find_space(supernet, preset, None, {"level_weight": 1, gene: 2.0})
    values = {g.name: g.choices for g in space.genes if g.field == "level_weight"}
    assert values[gene] == (2.0,)
    assert {of for name, of in values.items() if name != gene} == {(1.0,)}
    with pytest.raises(InputError, match=r"`fixed`: .*smoothing"):
        find_space(supernet, replace(preset, optional_genes=False), None, {"smoothing": 1.5})


def test_a_resumed_search_counts_and_names_what_failed(data, tmp_path, monkeypatch, caplog):
    errors = [None, *[MemoryError("no room")] * 3, ArithmeticError("no digits")]

    def evaluate(self, architecture):
        if errors and (error := errors.pop(0)):
            raise error
        return Evaluation({"total_flops": architecture.input.size, "rwAP": 0.5})

    monkeypatch.setattr(CandidateEvaluator, "__call__", evaluate)
    settings = SMALL | {"evaluations": 5, "population": 5}
    with pytest.raises(MachineError):
        run_search(data, tmp_path / "run", **settings)
    told = []
    run = run_search(
        data,
        tmp_path / "run",
        resume=True,
        progress=lambda step, *count: told.append(count) if step.startswith("search") else None,
        **settings,
    )
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert caplog.messages[-1] == "1 candidate failed: ArithmeticError: no digits"
    assert (run.front.evaluated, run.front.failed) == (5, 1)

    run_search(
        data, tmp_path / "run", resume=True, progress=lambda *step: told.append(step), **settings
    )
    assert told[-1] == ("search", 5, 5)  # the failure is counted as done


def test_an_error_of_the_callback_within_a_candidate_ends_the_search(data, tmp_path, monkeypatch):
    def stop(step, done, total):
        if step.startswith("candidate"):
            raise ValueError("enough")

    monkeypatch.setattr("autopatch.runs.search._QUIET_SECONDS", -1)
    with pytest.raises(ValueError, match=r"^enough$"):
        run_search(data, tmp_path / "run", progress=stop, **SMALL)
    assert [t.reason for t in load_trials(tmp_path / "run" / "study.db")] == ["interrupted"]
