from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from autopatch.data import Sample
from autopatch.detector import score_maps
from autopatch.search.bootstrap import RESAMPLES, Bootstrap, interval
from autopatch.search.validation import COMBINED, ValidationMetrics, shots_weight


def shots(*types: str) -> list[Sample]:
    return [Sample(Path(f"{i}.png"), kind, Path("m.png")) for i, kind in enumerate(types)]


def scene(seed: int, types: list[str], size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Anomaly maps and masks; anomalous pixels have higher scores."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros((len(types), size, size), dtype=torch.bool)
    for image, kind in enumerate(types):
        if kind != "good":
            for _ in range(rng.integers(1, 3)):
                y, x = rng.integers(0, size - 6, 2)
                masks[image, y : y + rng.integers(2, 6), x : x + 3] = True
    noise = torch.from_numpy(rng.random(masks.shape)).float()
    return noise + 0.5 * masks, masks


TYPES = ["good"] * 6 + ["dent", "crack"] + ["good"] * 6 + ["scratch"] * 4 + ["blur"] * 5


def groups() -> list[str]:
    """Each synthetic anomaly is drawn on a good image."""
    good = [str(i) for i in range(6)]
    return [*good, "dent", "crack", *good, *(str(i % 6) for i in range(9))]


def test_the_shots_count_for_a_fifth_with_one_of_each_type_and_more_with_more() -> None:
    assert shots_weight([]) == 0
    assert shots_weight(shots("a", "b")) == pytest.approx(1 / 5)
    assert shots_weight(shots("a", "a", "b", "b")) == pytest.approx(1 / 3)
    assert shots_weight(shots(*["a", "b"] * 4)) == pytest.approx(1 / 2)


def test_robust_metrics_combine_kinds_and_shots() -> None:
    maps, masks = scene(0, TYPES)
    measured = ValidationMetrics(masks, TYPES, groups(), scored=8, shots=shots("dent", "crack"))
    found = measured(maps).metrics
    scored = score_maps(maps[:8], masks[:8], TYPES[:8])
    assert {name: found[name] for name in scored} == scored
    for name in ("dent", "crack"):
        places = [place for place in range(8) if TYPES[place] in ("good", name)]
        of_type = score_maps(maps[places], masks[places], [TYPES[place] for place in places])
        assert found[f"shots_rwAP.{name}"] == of_type["rwAP"]
    for name in ("rwAP", "image_AUROC"):
        of_kinds = []
        for places in ([*range(8, 14), *range(14, 18)], [*range(8, 14), *range(18, 23)]):
            types = [TYPES[place] for place in places]
            of_kinds.append(score_maps(maps[places], masks[places], types)[name])
        assert [found[f"{name}.scratch"], found[f"{name}.blur"]] == of_kinds
        expected = 4 / 5 * fmean(of_kinds) + 1 / 5 * scored[name]
        assert found[f"robust_{name}"] == pytest.approx(expected)
        assert found[f"robust_{name}.low"] <= found[f"robust_{name}"]
        assert found[f"robust_{name}"] <= found[f"robust_{name}.high"]


def test_transplants_are_compared_with_good_images_that_lack_a_shot_too() -> None:
    maps, masks = scene(6, TYPES)
    measure = partial(ValidationMetrics, masks, TYPES, groups(), scored=8, shots=[])
    found = measure(transplants={"blur"})(maps).metrics
    plain = measure()(maps).metrics
    assert found["rwAP.scratch"] == plain["rwAP.scratch"]
    places = [*range(6), *range(18, 23)]
    expected = score_maps(maps[places], masks[places], [TYPES[place] for place in places])
    assert found["rwAP.blur"] == expected["rwAP"] != plain["rwAP.blur"]


def test_few_good_images_have_no_interval() -> None:
    maps, masks = scene(7, TYPES)
    names = [str(min(int(name), 3)) if name.isdigit() else name for name in groups()]
    found = ValidationMetrics(masks, TYPES, names, scored=8, shots=shots("dent", "crack"))(maps)
    assert "robust_rwAP" in found.metrics
    assert found.resampled == {}
    assert not any(name.endswith((".low", ".high")) for name in found.metrics)


def test_a_score_of_zero_does_not_coarsen_the_others() -> None:
    maps, masks = scene(8, TYPES)
    bootstrap = Bootstrap(masks, TYPES, groups(), good="good")
    maps = maps + 0.5
    levels = (bootstrap.levels(maps).negative.sum(dim=0) > 0).sum()
    maps[0, 0, 0] = 0
    assert (bootstrap.levels(maps).negative.sum(dim=0) > 0).sum() > 0.4 * levels > 50


def test_intervals_can_be_left_out() -> None:
    maps, masks = scene(7, TYPES)
    measure = partial(ValidationMetrics, masks, TYPES, groups(), scored=8, shots=shots("dent"))
    plain, found = measure(intervals=False)(maps), measure()(maps)
    assert plain.resampled == {} != found.resampled
    assert plain.metrics.items() < found.metrics.items()


def test_without_shots_only_the_kinds_count() -> None:
    types = [*TYPES[:6], *TYPES[8:]]
    maps, masks = scene(1, types)
    names = groups()
    found = ValidationMetrics(masks, types, names[:6] + names[8:], scored=6, shots=[])(maps).metrics
    assert "rwAP" not in found
    assert found["robust_rwAP"] == pytest.approx(fmean([found["rwAP.scratch"], found["rwAP.blur"]]))


def test_without_synthetic_anomalies_the_metrics_are_those_of_the_scored_images() -> None:
    maps, masks = scene(2, TYPES[:8])
    found = ValidationMetrics(masks, TYPES[:8], groups()[:8], scored=8, shots=[])(maps).metrics
    plain = score_maps(maps, masks, TYPES[:8])
    extra = (".low", ".high", ".dent", ".crack")
    assert {k: v for k, v in found.items() if not k.endswith(extra)} == plain


def test_a_resample_is_the_metric_of_the_repeated_images() -> None:
    """Computes rwAP and image AUROC of each resample by repeating images."""
    types = ["good"] * 5 + ["dent"] * 4 + ["crack"] * 3
    maps, masks = scene(3, types)
    # Scores that are exact in few digits, so that rounding changes nothing.
    maps = (maps * 256).round() / 256 + 1
    names = [str(i) for i in range(len(types))]
    bootstrap = Bootstrap(masks, types, names, good="good", seed=5)
    levels = bootstrap.levels(maps)
    every = list(range(len(types)))
    found = bootstrap.rwap(levels, every), bootstrap.image_auroc(levels, every)
    compared = 0
    for row in (0, 1, 2, 3, 50):
        repeated = np.repeat(every, bootstrap._counts[row].int().numpy()).tolist()
        kinds = [types[place] for place in repeated]
        if set(kinds) == {"good", "dent", "crack"}:
            expected = score_maps(maps[repeated], masks[repeated], kinds)
            assert found[0][row] == pytest.approx(expected["rwAP"], abs=0.003)
            assert found[1][row] == pytest.approx(expected["image_AUROC"], abs=1e-6)
            compared += 1
    assert compared >= 3


def test_images_of_a_group_are_drawn_together() -> None:
    names = ["a", "a", "b", "c", "c"]
    counts = Bootstrap(torch.zeros(5, 2, 2, dtype=torch.bool), ["x"] * 5, names, good="x")._counts
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 4]).all()
    assert (counts[1:, [0, 2, 3]].sum(dim=1) == 3).all()


@pytest.mark.parametrize("kinds", [1, 3, 8])
def test_resamples_of_few_shots_are_around_the_sample(kinds: int) -> None:
    """Each resample has as many shots as the sample, so few shots do not shift rwAP."""
    types = ["good"] * 30 + [f"dent {i}" for i in range(kinds)]
    names = [str(i) for i in range(len(types))]
    shifts = []
    for seed in range(8):
        maps, masks = scene(seed, types)
        bootstrap = Bootstrap(masks, types, names, good="good", seed=seed)
        found = bootstrap.rwap(bootstrap.levels(maps), range(len(types)))
        assert found.isfinite().all()
        shifts.append(float(found[1:].mean() / found[0]))
    assert fmean(shifts) == pytest.approx(1, abs=0.06)


def test_the_interval_holds_ninety_percent() -> None:
    assert interval(torch.arange(101.0)) == pytest.approx((5.0, 95.0))
    assert interval(torch.tensor([0.5, torch.nan, torch.nan])) is None


def test_more_images_give_a_narrower_interval() -> None:
    widths = []
    for count in (6, 60):
        types = ["good"] * count + ["dent"] * count
        maps, masks = scene(4, types)
        names = [str(i) for i in range(len(types))]
        measure = ValidationMetrics(masks, types, names, scored=len(types), shots=shots("dent"))
        found = measure(maps).metrics
        assert not any(name.startswith("shots_rwAP") for name in found)
        widths.append(found["rwAP.high"] - found["rwAP.low"])
    assert widths[1] < 0.6 * widths[0]


def test_resamples_are_the_same_for_all_candidates() -> None:
    maps, masks = scene(5, TYPES)
    measure = ValidationMetrics(masks, TYPES, groups(), scored=8, shots=shots("dent", "crack"))
    one, same, better = (measure(m) for m in (maps, maps.clone(), maps + 2 * masks))
    assert set(one.resampled) == {f"{r}{n}" for r in ("", "robust_") for n in COMBINED}
    assert one.resampled == same.resampled
    for name, values in one.resampled.items():
        assert 100 < len(values) == len(better.resampled[name]) <= RESAMPLES
        low, high = np.quantile(values, [0.05, 0.95])
        assert (one.metrics[f"{name}.low"], one.metrics[f"{name}.high"]) == pytest.approx(
            (low, high), abs=1e-3
        )
        assert all(b >= a for a, b in zip(values, better.resampled[name], strict=True))
