import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from autopatch.data import MVTecAD, draw_textures, make_split
from autopatch.detector import Architecture, Head, Input
from autopatch.search import CandidateEvaluator, Objective, resolve_objectives
from autopatch.search.evaluation import CallbackError
from autopatch.search.feature_maps import FeatureMaps
from autopatch.supernet import Backbone, load_supernet

NAME = "timm:test_efficientnet"


def architecture_of(size, levels, patch_sizes, bank_size):
    return Architecture(Input(size), Backbone(NAME, levels), Head(patch_sizes, bank_size))


def at(size, levels):
    return architecture_of(size, tuple(levels), (1,) * len(levels), None)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("textures") / "data"
    draw_textures(root, seed=4, image_size=64, train=10, test_good=3, per_type=4)
    return make_split(MVTecAD.scan(root), shots=2, reserve=2)


@pytest.fixture(scope="module")
def supernet():
    return load_supernet(NAME, "random")


def test_maps_are_kept_within_the_budget(split, supernet, monkeypatch):
    maps = FeatureMaps(supernet, fit=split.fit, scored=(), cache_bytes=0)
    budget = maps.bytes_needed(at(64, [2])) + maps.bytes_needed(at(96, [2]))
    maps = FeatureMaps(supernet, fit=split.fit, scored=(), cache_bytes=budget)
    computed = []
    compute = maps._compute
    monkeypatch.setattr(
        maps, "_compute", lambda whole: computed.append(whole.input.size) or compute(whole)
    )
    for size in (64, 96, 64, 96):
        maps.get(at(size, [2]))
    assert computed == [64, 96]
    maps.get(at(160, [2]))  # more than the budget alone: not kept, and nothing is dropped for it
    maps.get(at(64, [2]))
    assert computed == [64, 96, 160]
    maps.get(at(32, [2]))  # takes the place of the least recently used
    maps.get(at(64, [2]))
    maps.get(at(96, [2]))
    assert computed == [64, 96, 160, 32, 96]


def test_the_budget_counts_what_is_kept(split, supernet):
    maps = FeatureMaps(supernet, fit=split.fit, scored=split.holdout, cache_bytes=1 << 30)
    kept = maps.get(at(96, supernet.largest().levels))
    assert maps.bytes_needed(at(96, [2])) == sum(4 * m.numel() for m in kept)


def test_kept_maps_are_those_of_the_subnet(split, supernet):
    wide, narrow = (
        FeatureMaps(supernet, fit=split.fit, scored=(), cache_bytes=size).get(at(64, [2, 3]))
        for size in (1 << 30, 0)
    )
    for kept, computed in zip(wide, narrow, strict=True):
        assert torch.equal(kept, computed)


def test_threads_share_what_is_kept(split, supernet, monkeypatch):
    maps = FeatureMaps(supernet, fit=split.fit, scored=(), cache_bytes=1 << 30)
    computed = []
    compute = maps._compute

    def slowly(whole):
        computed.append(whole.input.size)
        time.sleep(0.05)  # so that the other threads ask meanwhile
        return compute(whole)

    monkeypatch.setattr(maps, "_compute", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda level: maps.get(at(32, [level])), (1, 2, 1, 2)))
    assert computed == [32]
    assert found[0][0] is found[2][0]
    assert found[1][0] is found[3][0]


def test_a_candidate_scores_the_same_on_every_device(split, supernet, device):
    scored = (*split.holdout, *split.validation)
    architecture = architecture_of(64, (2, 3), (3, 1), 40)
    on_cpu, on_device = (
        CandidateEvaluator(supernet, fit=split.fit, scored=scored, device=where)(architecture)
        for where in ("cpu", device)
    )
    assert on_device.values["total_flops"] == on_cpu.values["total_flops"]
    assert on_device.metrics == pytest.approx(on_cpu.metrics, abs=1e-4)


def test_a_candidate_scores_the_same_in_any_order(split, supernet):
    scored = (*split.holdout, *split.validation)
    first = architecture_of(64, (2, 3), (3, 1), 40)
    second = architecture_of(96, (1,), (2,), 30)

    def evaluator(**options):
        return CandidateEvaluator(supernet, fit=split.fit, scored=scored, **options)

    one, other, uncached = evaluator(), evaluator(), evaluator(cache_bytes=0)
    results = [one(first), one(second)]
    assert other(second).metrics == results[1].metrics
    assert other(first).metrics == results[0].metrics
    assert uncached(first).metrics == results[0].metrics
    assert uncached(first).values == results[0].values


def test_values_are_those_of_the_objectives(split, supernet):
    scored = (*split.holdout, *split.validation)
    seen = []

    def rows(candidate):
        seen.append(candidate)
        return candidate.bank_rows

    mine = Objective("rows", "rows of the bank", "", 1.0, "minimize", rows)
    objectives = (mine, *resolve_objectives(["total_flops", "rwAP"]))
    architecture = architecture_of(64, (2,), (3,), 40)
    evaluator = CandidateEvaluator(supernet, fit=split.fit, scored=scored, objectives=objectives)
    found = evaluator(architecture)
    assert list(found.values) == ["rows", "total_flops", "rwAP"]
    assert found.values["rows"] == 40
    assert found.values["rwAP"] == found.metrics["rwAP"]
    assert [c.architecture for c in seen] == [architecture]
    assert seen[0].metrics == found.metrics
    usual = CandidateEvaluator(supernet, fit=split.fit, scored=scored)(architecture)
    assert usual.values == {name: found.values[name] for name in ("total_flops", "rwAP")}
    assert set(found.timings) == {"features", "bank", "neighbors", "metrics"}


def test_what_does_not_fit_is_named(split, supernet):
    scored = (*split.holdout, *split.validation)
    evaluator = CandidateEvaluator(supernet, fit=split.fit, scored=scored, cache_bytes=1000)
    assert list(evaluator.too_large_to_keep([at(64, [2]), at(96, [2])])) == [64, 96]
    evaluator = CandidateEvaluator(supernet, fit=split.fit, scored=scored)
    assert evaluator.too_large_to_keep([at(64, [2])]) == {}


def test_banks_beyond_the_patches_are_one_detector(split, supernet, monkeypatch):
    scored = (*split.holdout, *split.validation)
    evaluator = CandidateEvaluator(supernet, fit=split.fit, scored=scored)
    patches = len(split.fit) * 8 * 8  # stride 8 at 64 px
    runs = []
    score = evaluator._score
    monkeypatch.setattr(evaluator, "_score", lambda a: runs.append(a) or score(a))
    results = [
        evaluator(architecture_of(64, (2,), (3,), size))
        for size in (patches, patches + 1, 10 * patches, None, patches - 1)
    ]
    assert len(runs) == 2
    assert results[0] == results[1] == results[2] == results[3]
    assert results[4].values["total_flops"] < results[0].values["total_flops"]


def test_an_image_that_changes_is_read_again(split, supernet, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(split.fit[0].image.read_bytes())
    maps = FeatureMaps(supernet, fit=[replace(split.fit[0], image=image)], scored=(), cache_bytes=0)
    before = maps.get(at(64, [2]))
    image.write_bytes(split.test[-1].image.read_bytes())
    assert not torch.equal(maps.get(at(64, [2]))[0], before[0])


def test_an_error_of_the_callback_is_told_from_one_of_the_candidate(split, supernet):
    error = ValueError("enough")

    def stop(*step):
        raise error

    evaluate = CandidateEvaluator(supernet, fit=split.fit, scored=split.validation, progress=stop)
    with pytest.raises(CallbackError) as raised:
        evaluate(architecture_of(64, (2,), (1,), 10))
    assert raised.value.error is error
