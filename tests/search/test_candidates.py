import pytest
import torch

from autopatch.data import MVTecAD, draw_textures, make_split
from autopatch.search.candidates import CandidateEvaluator, FeatureMaps
from autopatch.supernet import Architecture, load_supernet

NAME = "timm:tf_mobilenetv3_small_075"


def at(size, levels):
    return Architecture(NAME, size, tuple(levels), (1,) * len(levels), None)


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
        maps, "_compute", lambda whole: computed.append(whole.image_size) or compute(whole)
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
    kept = maps.get(at(96, supernet.shared_levels))
    assert maps.bytes_needed(at(96, [2])) == sum(4 * m.numel() for m in kept)


def test_kept_maps_are_those_of_the_subnet(split, supernet):
    wide, narrow = (
        FeatureMaps(supernet, fit=split.fit, scored=(), cache_bytes=size).get(at(64, [2, 3]))
        for size in (1 << 30, 0)
    )
    for kept, computed in zip(wide, narrow, strict=True):
        assert torch.equal(kept, computed)


def test_a_candidate_scores_the_same_on_every_device(split, supernet, device, exact_convolutions):
    scored = (*split.holdout, *split.validation)
    architecture = Architecture(NAME, 64, (2, 3), (3, 1), 40)
    on_cpu, on_device = (
        CandidateEvaluator(supernet, fit=split.fit, scored=scored, device=where)(architecture)
        for where in ("cpu", device)
    )
    assert on_device.cost == on_cpu.cost
    assert on_device.metrics == pytest.approx(on_cpu.metrics, abs=1e-4)


def test_a_candidate_scores_the_same_in_any_order(split, supernet):
    scored = (*split.holdout, *split.validation)
    first = Architecture(NAME, 64, (2, 3), (3, 1), 40)
    second = Architecture(NAME, 96, (1,), (2,), 30)

    def evaluator(**options):
        return CandidateEvaluator(supernet, fit=split.fit, scored=scored, seed=5, **options)

    one, other, uncached = evaluator(), evaluator(), evaluator(cache_bytes=0)
    results = [one(first), one(second)]
    assert other(second).metrics == results[1].metrics
    assert other(first).metrics == results[0].metrics
    assert uncached(first).metrics == results[0].metrics
    assert uncached(first).cost == results[0].cost


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
        evaluator(Architecture(NAME, 64, (2,), (3,), size))
        for size in (patches, patches + 1, 10 * patches, None, patches - 1)
    ]
    assert len(runs) == 2
    assert results[0] == results[1] == results[2] == results[3]
    assert results[4].cost < results[0].cost
