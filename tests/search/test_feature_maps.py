"""The cache of feature maps: what candidates share, and that sharing changes nothing."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from autopatch.data import Cache, MVTecAD, draw_textures, make_split
from autopatch.detector import Architecture, Head, Input, cut_subnet, feature_maps, stack_maps
from autopatch.detector.extractor import images_at_a_time
from autopatch.search.feature_maps import FeatureMaps
from autopatch.supernet import Backbone, load_supernet

NAME = "timm:test_efficientnet"
ELASTIC = "elastic:mobilenetv2_050"
WIDE = "ofa_mbv3_d234_e346_k357_w1.2"
LARGE = 1 << 30


def at(size, levels):
    return Architecture(Input(size), Backbone(NAME, tuple(levels)), Head((1,) * len(levels)))


def elastic(levels, ratios, depths, size=64):
    backbone = Backbone(ELASTIC, levels, {"expand_ratio": ratios, "depth": depths})
    return Architecture(Input(size), backbone, Head((1,) * len(levels)))


def once_for_all(blocks, kernels, ratios):
    backbone = Backbone(WIDE, blocks, {"kernel_size": kernels, "expand_ratio": ratios})
    return Architecture(Input(64), backbone, Head((1,) * len(blocks)))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("textures") / "data"
    draw_textures(root, seed=4, image_size=64, train=26, test_good=3, per_type=4)
    return make_split(MVTecAD.scan(root), shots=2, reserve=2)


@pytest.fixture(scope="module")
def supernet():
    return load_supernet(NAME, "random")


@pytest.fixture(scope="module")
def elastic_supernet():
    return load_supernet(ELASTIC, "random")


@pytest.fixture(scope="module", params=[False, True], ids=["as trained", "recalibrated"])
def published_supernet(request):
    return load_supernet(WIDE, "random", recalibrate_batch_norm=request.param)


def maps_of(supernet, split, cache_bytes=LARGE):
    return FeatureMaps(supernet, fit=split.fit, scored=split.holdout, cache=Cache(cache_bytes))


def equal(found, expected):
    """Bit for bit, in the same memory layout."""
    return all(
        torch.equal(one, other) and one.stride() == other.stride()
        for one, other in zip(found, expected, strict=True)
    )


def check_that_nothing_changes(supernet, split, *candidates):
    shared, alone = maps_of(supernet, split), maps_of(supernet, split, cache_bytes=0)
    expected = [alone.get(architecture) for architecture in candidates]
    for architecture, maps in zip(candidates, expected, strict=True):
        assert equal(shared.get(architecture), maps)
    tight = maps_of(supernet, split, cache_bytes=2 * shared._cache.held // 3)
    for architecture, maps in [*zip(candidates, expected, strict=True)] * 2:
        assert equal(tight.get(architecture), maps)
        assert tight._cache.held <= tight._cache.budget
    assert alone.work.reused == 0
    assert shared.work.computed + shared.work.reused == alone.work.computed
    assert alone.work.computed < tight.work.computed + tight.work.reused
    assert shared.work.computed < tight.work.computed


def test_sharing_does_not_change_a_timm_backbone(split, supernet):
    candidates = at(64, (1, 3)), at(64, (2,)), at(96, (1, 2, 3)), at(96, (4,))
    check_that_nothing_changes(supernet, split, *candidates)


def test_sharing_does_not_change_an_elastic_network(split, elastic_supernet):
    check_that_nothing_changes(
        elastic_supernet,
        split,
        elastic((1, 3), (4, 6, 3), (2, 1, 3)),
        elastic((2, 4), (4, 6, 3, 3), (2, 1, 2, 3)),
        elastic((3, 4), (4, 6, 3, 6), (2, 1, 2, 1)),
        elastic((3,), (3, 6, 3), (2, 1, 3), size=96),
    )


def test_sharing_does_not_change_the_published_networks(split, published_supernet):
    check_that_nothing_changes(
        published_supernet,
        split,
        once_for_all((2, 6, 15), (3, 5, 7, 3), (4, 3, 3, 6)),
        once_for_all((4, 5, 16), (3, 5, 7, 3), (4, 3, 3, 6)),
        once_for_all((2, 6, 15), (3, 5, 7, 5), (4, 3, 3, 6)),
    )


def test_maps_are_those_of_the_subnet(split, elastic_supernet):
    maps = maps_of(elastic_supernet, split)
    maps.get(elastic((2,), (4, 3), (2, 1)))
    architecture = elastic((1, 3), (4, 6, 3), (2, 3, 2))
    subnet = cut_subnet(elastic_supernet, architecture, [])
    images = [sample.image for sample in (*split.fit, *split.holdout)]
    assert len(images) > images_at_a_time(torch.device("cpu"))
    expected = stack_maps(feature_maps(subnet, architecture.input, images), len(images))
    assert equal(maps.get(architecture), expected)
    assert maps.work.reused == len(images)


def segments_run(maps, *architectures):
    """Segments that each candidate computes and reuses, and the images that it reads."""
    run = []
    for architecture in architectures:
        before = maps.work
        count = len(maps.get(architecture)[0])
        pairs = ((getattr(maps.work, name), getattr(before, name)) for name in COUNTS)
        run.append(tuple((now - then) // count for now, then in pairs))
    return run


COUNTS = ("computed", "reused", "images_read")


def test_subnets_share_their_first_segments(split, elastic_supernet):
    maps = maps_of(elastic_supernet, split)
    assert segments_run(
        maps,
        elastic((1, 3), (4, 6, 3), (2, 3, 2)),
        elastic((3,), (4, 6, 3), (2, 3, 2)),
        elastic((2,), (4, 6), (2, 3)),  # was not selected, but lies on the way to the third
        elastic((2, 3), (4, 6, 4), (2, 3, 2)),
        elastic((1, 2, 4), (4, 3, 6, 6), (2, 3, 2, 1)),
        elastic((1,), (3,), (2,)),
        elastic((2,), (3, 3), (2, 3)),  # equal to an earlier one only in its own ratio
        elastic((1,), (3,), (2,), size=96),
    ) == [(3, 0, 1), (0, 3, 0), (0, 2, 0), (1, 2, 0), (3, 1, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1)]
    assert maps.work.seconds > 0
    assert maps.work.seconds_saved > 0
    assert maps.work.images_reused == 3 * maps.work.images_read


def test_blocks_of_a_longer_stage_start_from_those_of_a_shorter_one(split):
    maps = maps_of(load_supernet(WIDE, "random"), split)
    assert segments_run(
        maps,
        once_for_all((2, 6), (3, 5), (4, 3)),  # 2 blocks in each stage
        once_for_all((4, 6), (3, 5), (4, 3)),
        once_for_all((1, 5), (3, 7), (4, 3)),
        once_for_all((9,), (3, 7, 3), (4, 3, 3)),
    ) == [(4, 0, 1), (4, 2, 0), (2, 1, 0), (2, 3, 0)]


def test_what_others_start_from_is_computed_again_after_it_was_dropped(split, elastic_supernet):
    first, second = (elastic((2,), (4, ratio), (2, 2)) for ratio in (6, 3))
    budget = maps_of(elastic_supernet, split).bytes_needed(first)
    maps = maps_of(elastic_supernet, split, cache_bytes=budget)
    (mine,) = maps.get(first)
    maps._cache.make_room(budget)
    assert equal(maps.get(second), maps_of(elastic_supernet, split, 0).get(second))
    assert maps.work.reused == 0
    assert equal(maps.get(first), [mine])


def test_a_backbone_that_fits_nowhere_is_not_kept(split, elastic_supernet):
    small, large = elastic((1,), (4,), (2,)), elastic((1, 2), (4, 6), (2, 2))
    budget = maps_of(elastic_supernet, split).bytes_needed(small)
    maps = maps_of(elastic_supernet, split, cache_bytes=budget)
    maps.get(small)
    assert segments_run(maps, large, small, large) == [(1, 1, 0), (0, 1, 0), (1, 1, 0)]


def test_maps_and_pixels_are_kept_within_one_budget(split, supernet):
    count = len(split.fit) + len(split.holdout)
    maps = maps_of(supernet, split)
    two = [at(64, [2]), at(96, [2])]
    pixels = sum(3 * count * architecture.input.size**2 for architecture in two)
    budget = pixels + sum(map(maps.bytes_needed, two))
    maps = maps_of(supernet, split, cache_bytes=budget)
    assert segments_run(maps, *two, *two) == [(1, 0, 1), (1, 0, 1), (0, 1, 0), (0, 1, 0)]
    assert maps._cache.held == budget
    assert segments_run(maps, at(32, [2])) == [(1, 0, 1)]  # drops the oldest pixels
    assert segments_run(maps, *two, at(32, [2])) == [(0, 1, 0)] * 3
    assert segments_run(maps, at(224, [2])) == [(1, 0, 1)]  # its maps are larger than the budget
    assert segments_run(maps, at(224, [2]))[0][:2] == (1, 0)
    assert maps._cache.held <= budget


def test_the_budget_counts_what_is_kept(split, supernet):
    maps = maps_of(supernet, split)
    kept = maps.get(at(96, supernet.largest().levels))
    assert maps.bytes_needed(at(96, [2])) == sum(4 * m.numel() for m in kept)


def test_kept_maps_are_those_of_the_subnet(split, supernet):
    wide, narrow = (
        maps_of(supernet, split, cache_bytes=size).get(at(64, [2, 3])) for size in (1 << 30, 0)
    )
    for kept, computed in zip(wide, narrow, strict=True):
        assert torch.equal(kept, computed)


def test_threads_share_what_is_kept(split, supernet, monkeypatch):
    maps = maps_of(supernet, split)
    compute = maps._compute

    def slowly(*asked):
        time.sleep(0.05)  # so that the other threads ask meanwhile
        return compute(*asked)

    monkeypatch.setattr(maps, "_compute", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda level: maps.get(at(32, [level])), (1, 2, 1, 2)))
    assert maps.work.computed == len(found[0][0])
    assert found[0][0] is found[2][0]
    assert found[1][0] is found[3][0]


def test_an_image_that_changes_is_read_again(split, supernet, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(split.fit[0].image.read_bytes())
    maps = FeatureMaps(
        supernet, fit=[replace(split.fit[0], image=image)], scored=(), cache=Cache(0)
    )
    before = maps.get(at(64, [2]))
    image.write_bytes(split.test[-1].image.read_bytes())
    assert not torch.equal(maps.get(at(64, [2]))[0], before[0])
