"""What a search says about its pick: whether to trust it, and what would help most."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from statistics import NormalDist

from autopatch.data import GOOD
from autopatch.detector import Architecture, Threshold, patchcore_architecture
from autopatch.report import Evidence, in_words, rwap_of_shots
from autopatch.runs.record import RunRecord
from autopatch.search import Trial
from autopatch.search.bootstrap import COVERAGE

ENOUGH_GOOD = 20
"""With fewer good hold-out images, more of them are advised."""

ENOUGH_SHOTS = 4
"""With fewer shots of a type, more of them are advised."""


@dataclass(frozen=True)
class Advice:
    """What to think of the pick of a search.

    Attributes:
        trust: Whether it can be trusted, and why, in one sentence.
        help: What would help most, in one or two sentences.
    """

    trust: str
    help: str


def advise(run: RunRecord, threshold: Threshold | None = None) -> Advice:
    """Judges the pick of a search by what the search measured; the test set plays no part.

    Args:
        run: The search, with at least one evaluated trial.
        threshold: The threshold of a fitted detector; None if there is none.

    Raises:
        InputError: No trial has been evaluated.
    """
    evidence = Evidence.of(run.split, run.synthetic)
    return Advice(trust=_trust(run, evidence), help=_help(run, evidence, threshold))


def baseline_trial(run: RunRecord) -> Trial | None:
    """The evaluated trial that is the PatchCore baseline.

    It has the image size of the space nearest to that of the baseline, the nearest bank size that
    was evaluated, and known defects only if the space has no detectors without.

    Returns:
        The trial; None if none was evaluated.
    """
    baseline = patchcore_architecture(run.supernet, images=len(run.good))
    sizes = [size for size in run.space.choices("input", "image_size") if isinstance(size, int)]
    if baseline is None or baseline.head.bank_size is None or not sizes:
        return None
    rows, pixels = baseline.head.bank_size, baseline.input.size
    size = min(sizes, key=lambda size: abs(size - pixels))
    defects = None in run.space.choices("head", "defects")

    def bare(architecture: Architecture) -> Architecture:
        head = replace(architecture.head, bank_size=None)
        return replace(architecture, head=head if defects else replace(head, defects=None))

    expected = replace(bare(baseline), input=replace(baseline.input, size=size))
    found = [
        (abs((trial.architecture.head.bank_size or math.inf) - rows), trial.number, trial)
        for trial in run.trials
        if trial.evaluation is not None and bare(trial.architecture) == expected
    ]
    return min(found, key=lambda entry: entry[:2])[-1] if found else None


def _trust(run: RunRecord, evidence: Evidence) -> str:
    """Compares the pick with the baseline, pair by pair: both on the same resamples of the images
    that the search has seen. The pick is the best of many on them by luck too, so the interval has
    Bonferroni's correction for the number of trials."""
    pick, baseline = run.pick, baseline_trial(run)
    quality = run.objectives[-1]
    assert pick.evaluation is not None
    value = in_words(quality, pick.evaluation.values, pick.evaluation.metrics)
    measured = f"{quality.short_name} {value} on {evidence.brief()}"
    name = f"The pick, trial {pick.number},"
    if baseline is None:
        return (
            f"{name} was not compared with the PatchCore baseline, which was not evaluated: "
            f"{measured}."
        )
    if baseline.number == pick.number:
        return f"{name} is the PatchCore baseline; nothing better was found: {measured}."
    assert baseline.evaluation is not None
    against = (
        f"{measured}, against "
        f"{in_words(quality, baseline.evaluation.values)} (trial {baseline.number})"
    )
    differences = pick.evaluation.differences(baseline.evaluation, quality.name)
    if differences is None:
        return (
            f"{name} cannot be told from the PatchCore baseline, since their {quality.short_name} "
            f"has no interval: {against}."
        )
    difference = pick.evaluation.values[quality.name] - baseline.evaluation.values[quality.name]
    trials = sum(trial.evaluation is not None for trial in run.trials)
    errors = NormalDist().inv_cdf(1 - (1 - COVERAGE) / 2 / trials)
    width = errors * statistics.pstdev(differences)
    low, high = difference - width, difference + width
    against += (
        f"; {100 * COVERAGE:.0f} % interval of the difference, for the best of {trials} trials: "
        f"{100 * low:.1f} to {100 * high:.1f} points"
    )
    if low > 0:
        return f"{name} can be trusted to be better than the PatchCore baseline: {against}."
    if high < 0:
        return (
            f"{name} is worse than the PatchCore baseline and was picked for its cost, by the rule "
            f"{run.rule!r} or a constraint: {against}."
        )
    return f"{name} cannot be told from the PatchCore baseline: {against}."


def _help(run: RunRecord, evidence: Evidence, threshold: Threshold | None) -> str:
    """The first lack, the gravest first."""
    if not evidence.shots:
        split = run.split
        has_some = any(sample.type != GOOD for sample in (*split.reserved_unused, *split.test))
        return (
            "Images of real defects would help most: the search had no shots, so it knows "
            "synthetic anomalies alone. "
            + (
                "The data set has some; search again with 1 shot of each type or more."
                if has_some
                else f"{split.reserve + 1} images of each type, with masks, are enough to search "
                "with 1 and to test with others."
            )
        )
    if threshold is not None and not threshold.has_enough_images:
        return (
            f"More good images would help most: the {100 * threshold.target_rate:.3g} % of false "
            f"alarms that were asked for need {threshold.images_needed:,}, and there are "
            f"{threshold.images:,}."
        )
    if evidence.good < ENOUGH_GOOD:
        return (
            f"More good images would help most: the search compared the anomalies with only "
            f"{evidence.good:,} of them, expected at least {ENOUGH_GOOD}; there are "
            f"{len(run.good):,} to fit and search with."
        )
    sizes = {size for size in run.space.choices("input", "image_size") if isinstance(size, int)}
    largest = max(sizes, default=0)
    if len(sizes) > 1 and run.pick.architecture.input.size == largest:
        return (
            f"Larger images may help most: the pick has {largest} px, the largest image size of "
            "the search."
        )
    few = {kind: count for kind, count in evidence.shots.items() if count < ENOUGH_SHOTS}
    if few:
        assert run.pick.evaluation is not None
        for kind, found in rwap_of_shots(run.pick.evaluation.metrics):
            if kind in few:
                return (
                    f"More shots of {kind} may help most: the search had {few[kind]}, and of the "
                    f"types with fewer than {ENOUGH_SHOTS}, the pick finds them worst (rwAP "
                    f"{100 * found:.1f} %)."
                )
        kind = min(few, key=lambda kind: few[kind])
        return f"More shots of {kind} may help most: the search had {few[kind]}."
    count = min(evidence.shots.values())
    had = [f"{evidence.good:,} good images", f"at least {count} shots of each type"]
    if run.pick.architecture.input.size < largest:
        had.append("larger images than those of the pick")
    return f"Nothing stands out that would help: the search had {' and '.join(had)}."
