"""Whether the pick can be trusted, and what would help most."""

from dataclasses import replace
from pathlib import Path

import pytest

from autopatch.data import Anomaly, Sample
from autopatch.detector import calibrate, patchcore_architecture
from autopatch.genes import Gene
from autopatch.runs.advice import advise, baseline_trial
from autopatch.search import Evaluation, SearchSpace, Trial, resolve_objectives

GOOD = tuple(Sample(Path(f"good/{i}.png"), "good") for i in range(40))
SHOTS = tuple(
    Sample(Path(f"{kind}/{i}.png"), kind, Path("mask.png")) for i in range(4) for kind in ("a", "b")
)


def trial(number, architecture, flops, quality, *, resampled=(), **metrics):
    values = {"total_flops": flops, "robust_rwAP": quality}
    found = Evaluation(values, metrics, resampled={"robust_rwAP": resampled})
    return Trial(number, (), architecture, found, None, 0.0, number)


def interval(low, high):
    return {"robust_rwAP.low": low, "robust_rwAP.high": high}


def around(value, spread):
    """Resampled values with a 90 % interval of the given half width."""
    return tuple(value + spread / 0.9 * (i / 10 - 1) for i in range(21))


@pytest.fixture
def baseline(finished):
    """The PatchCore baseline as the space of the search has it."""
    architecture = patchcore_architecture(finished.supernet, images=len(finished.good))
    head = replace(architecture.head, bank_size=40)
    if None not in finished.space.choices("head", "defects"):
        head = replace(head, defects=finished.space.choices("head", "defects")[0])
    return replace(architecture, head=head)


@pytest.fixture
def other(baseline):
    """A smaller image than that of the baseline."""
    return replace(baseline, input=replace(baseline.input, size=64))


@pytest.fixture
def judge(finished, baseline, other):
    """Makes a search that evaluated the baseline and another architecture, which is the pick."""

    def make(*trials, shots=SHOTS, holdout=GOOD, **changes):
        split = replace(finished.split, holdout=holdout, validation=shots)
        drawn = replace(SHOTS[0], type="warp")
        run = replace(
            finished,
            **{
                "trials": trials or (trial(0, baseline, 1e9, 0.4), trial(1, other, 2e9, 0.5)),
                "objectives": resolve_objectives(("total_flops", "robust_rwAP")),
                "rule": "robust",
                "split": split,
                **changes,
            },
        )
        vars(run)["synthetic"] = (Anomaly(drawn, GOOD[0]),) * 3
        return run

    return make


def test_a_pick_above_the_baseline(judge, baseline, other):
    ends = interval(0.55, 0.668)
    run = judge(
        trial(0, baseline, 1e9, 0.58, resampled=around(0.58, 0.09)),
        trial(3, other, 2e9, 0.612, resampled=around(0.612, 0.1), **ends),
    )
    # The intervals of both overlap, that of their difference does not hold 0.
    assert advise(run).trust == (
        "The pick, trial 3, can be trusted to be better than the PatchCore baseline: robust rwAP "
        "61.2 % (90 % interval 55.0 to 66.8) on 3 synthetic anomalies and 8 shots, against 58.0 % "
        "(trial 0); 90 % interval of the difference, for the best of 2 trials: 1.9 to 4.5 points."
    )


def test_a_pick_that_cannot_be_told_from_the_baseline(judge, baseline, other):
    run = judge(
        trial(0, baseline, 1e9, 0.6, resampled=around(0.6, 0.0)),
        trial(3, other, 5e8, 0.61, resampled=around(0.61, 0.03)),
    )
    assert "cannot be told from the PatchCore baseline: robust rwAP 61.0 %" in advise(run).trust
    assert "for the best of 2 trials: -3.0 to 5.0 points." in advise(run).trust


def test_the_best_of_many_needs_a_larger_difference(judge, baseline, other):
    """The best of 100 equal detectors seems better on the images that it was picked on."""
    trials = [
        trial(0, baseline, 1e9, 0.58, resampled=around(0.58, 0.0)),
        trial(1, other, 2e9, 0.61, resampled=around(0.61, 0.02)),
    ]
    assert "can be trusted" in advise(judge(*trials)).trust
    others = [trial(number, other, 3e9, 0.1) for number in range(2, 100)]
    said = advise(judge(*trials, *others)).trust
    assert "cannot be told from" in said
    assert "for the best of 100 trials" in said


def test_a_pick_below_the_baseline(judge, baseline, other):
    # At the knee, quality is given up for cost.
    run = judge(
        trial(0, baseline, 1e11, 0.62, resampled=around(0.62, 0.02)),
        trial(1, other, 2e9, 0.5, resampled=around(0.5, 0.02)),
        trial(2, other, 1e9, 0.1),
        rule="knee",
    )
    assert run.pick.number == 1
    assert "worse than the PatchCore baseline and was picked for its cost, by the rule 'knee'" in (
        advise(run).trust
    )


def test_a_pick_without_an_interval(judge, baseline, other):
    run = judge(trial(0, baseline, 1e9, 0.1), trial(3, other, 2e9, 0.9))
    assert "since their robust rwAP has no interval: robust rwAP 90.0 % on" in advise(run).trust


def test_the_baseline_as_the_pick(judge, baseline, other):
    run = judge(trial(0, baseline, 1e9, 0.5), trial(1, other, 2e9, 0.4))
    said = advise(run).trust
    assert said.startswith("The pick, trial 0, is the PatchCore baseline; nothing better was found")


def test_a_baseline_that_was_not_evaluated(judge, baseline, other):
    failed = replace(trial(0, baseline, 1e9, 0.1), evaluation=None)
    run = judge(failed, trial(3, other, 2e9, 0.9, **interval(0.85, 0.95)))
    assert baseline_trial(run) is None
    assert advise(run).trust == (
        "The pick, trial 3, was not compared with the PatchCore baseline, which was not evaluated: "
        "robust rwAP 90.0 % (90 % interval 85.0 to 95.0) on 3 synthetic anomalies and 8 shots."
    )


def test_the_baseline_is_found_among_the_trials(judge, baseline, other):
    def changed(**fields):
        return replace(baseline, head=replace(baseline.head, **fields))

    nearest = changed(bank_size=80)
    run = judge(
        trial(0, changed(neighbors=3), 1e9, 0.1),
        trial(1, changed(patch_sizes=(1,) * len(baseline.backbone.levels)), 1e9, 0.1),
        trial(2, changed(bank_size=1), 1e9, 0.1),
        trial(3, nearest, 1e9, 0.1),
        trial(4, baseline, 1e9, 0.1),
        trial(5, other, 1e9, 0.1),
        trial(7, changed(bank_size=None), 1e9, 0.1),
        trial(6, replace(nearest, head=replace(nearest.head, smoothing=4)), 1e9, 0.1),
    )
    assert patchcore_architecture(run.supernet, images=len(run.good)).head.bank_size > 80
    assert baseline_trial(run).number == 3


def test_the_first_trial_of_a_search_is_the_baseline(finished):
    assert baseline_trial(finished).number == 0
    assert "trial 0" in advise(finished).trust


def test_known_defects_are_part_of_the_baseline_only_if_all_detectors_have_them(
    judge, baseline, other
):
    knowing = replace(baseline, head=replace(baseline.head, defects=0.5))
    bare = replace(baseline, head=replace(baseline.head, defects=None))
    trials = (trial(0, knowing, 1e9, 0.1), trial(1, bare, 1e9, 0.1), trial(2, other, 1e9, 0.2))
    space = judge().space

    def with_choices(*choices):
        genes = [g for g in space.genes if (g.part, g.field) != ("head", "defects")]
        fixed = {key: value for key, value in space.fixed.items() if key != "head.defects"}
        gene = Gene("defects", choices, "head", "defects")
        return SearchSpace(space.name, (*genes, gene), fixed)

    assert baseline_trial(judge(*trials, space=with_choices(None, 0.5))).number == 1
    assert baseline_trial(judge(*trials, space=with_choices(0.5, 1.0))).number == 0


@pytest.mark.parametrize("has_some", [True, False])
def test_real_defects_help_most_if_there_are_none(judge, has_some):
    run = judge(shots=(), holdout=GOOD[:3])
    if not has_some:
        run = judge(split=replace(run.split, test=GOOD, reserved_unused=()))
    said = advise(run, calibrate([1.0])).help
    assert said.startswith("Images of real defects would help most: the search had no shots")
    assert ("search again with 1 shot of each type" in said) == has_some
    assert ("3 images of each type, with masks, are enough" in said) != has_some


def test_more_good_images_for_the_asked_rate(judge):
    threshold = calibrate([1.0, 2.0, 3.0], false_alarm_rate=0.01)
    assert advise(judge(shots=SHOTS[:2]), threshold).help == (
        "More good images would help most: the 1 % of false alarms that were asked for need 99, "
        "and there are 3."
    )
    enough = calibrate([float(i) for i in range(99)], false_alarm_rate=0.01)
    assert "good images" not in advise(judge(shots=SHOTS[:2]), enough).help


def test_more_good_images_to_search_with(judge):
    said = advise(judge(shots=SHOTS[:2], holdout=GOOD[:19])).help
    assert "compared the anomalies with only 19 of them, expected at least 20" in said
    assert "good images" not in advise(judge(shots=SHOTS[:2], holdout=GOOD[:20])).help


def test_larger_images(judge, baseline, other):
    largest = judge(trial(0, other, 1e9, 0.4), trial(1, baseline, 2e9, 0.5))
    assert advise(largest).help == (
        "Larger images may help most: the pick has 224 px, the largest image size of the search."
    )


def test_more_shots_of_the_type_that_is_found_worst(judge, baseline, other):
    def said(shots, **metrics):
        found = {f"shots_rwAP.{kind}": value for kind, value in metrics.items()}
        return advise(judge(trial(0, other, 1e9, 0.9, **found), shots=shots)).help

    assert said(SHOTS[:2], a=0.5, b=0.3) == (
        "More shots of b may help most: the search had 1, and of the types with fewer than 4, the "
        "pick finds them worst (rwAP 30.0 %)."
    )
    enough = (*SHOTS[:1], *SHOTS[1::2])  # 1 of a, 4 of b
    assert said(enough, a=0.5, b=0.3).startswith("More shots of a may help most: the search had 1")
    assert said(SHOTS[:1]) == "More shots of a may help most: the search had 1."


def test_nothing_stands_out(judge, baseline):
    run = judge()
    begin = (
        "Nothing stands out that would help: the search had 40 good images and at least 4 shots of "
        "each type"
    )
    assert advise(run).help == f"{begin} and larger images than those of the pick."
    genes = tuple(g for g in run.space.genes if g.field != "image_size")
    size = Gene("image_size", (baseline.input.size,), "input", "image_size")
    space = SearchSpace(run.space.name, (size, *genes), run.space.fixed)
    alone = judge(trial(0, baseline, 1e9, 0.4), space=space)
    assert advise(alone).help == f"{begin}."
