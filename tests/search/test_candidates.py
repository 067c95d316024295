from dataclasses import replace

import pytest

from autopatch.data import MVTecAD, draw_textures, make_split
from autopatch.detector import Architecture, Head, Input
from autopatch.search import CandidateEvaluator, Objective, SharedWork, resolve_objectives
from autopatch.search.evaluation import CallbackError
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
    found = [replace(result, timings={}, reuse={}) for result in results]
    assert found[0] == found[1] == found[2] == found[3]
    assert results[0].timings
    assert not any(result.timings or result.reuse for result in results[1:4])
    assert results[4].values["total_flops"] < results[0].values["total_flops"]


def test_an_error_of_the_callback_is_told_from_one_of_the_candidate(split, supernet):
    error = ValueError("enough")

    def stop(*step):
        raise error

    evaluate = CandidateEvaluator(supernet, fit=split.fit, scored=split.validation, progress=stop)
    with pytest.raises(CallbackError) as raised:
        evaluate(architecture_of(64, (2,), (1,), 10))
    assert raised.value.error is error


def test_shared_work_is_that_of_the_candidates(split, supernet):
    scored = (*split.holdout, *split.validation)
    evaluator = CandidateEvaluator(supernet, fit=split.fit, scored=scored)
    assert evaluator.shared_work == SharedWork()
    for patch_size in (1, 3):
        evaluator(architecture_of(64, (2,), (patch_size,), 40))
    images = len(split.fit) + len(scored)
    work = evaluator.shared_work
    assert (work.computed, work.reused) == (images, images)
    assert (work.images_read, work.images_reused) == (images, images)
    assert work.seconds == work.seconds_saved > 0


def test_an_evaluation_tells_what_was_in_the_cache(split, supernet):
    evaluator = CandidateEvaluator(supernet, fit=split.fit, scored=split.validation)
    found = [
        evaluator(architecture_of(64, (2,), (patch_size,), bank_size)).reuse
        for patch_size, bank_size in ((1, 40), (3, 40), (3, 20))
    ]
    assert [reuse["images"] for reuse in found] == [0, 1, 1]
    assert [reuse["feature_maps"] for reuse in found] == [0, 1, 1]
    assert [reuse["coresets"] for reuse in found] == [0, 0, 1]
