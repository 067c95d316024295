"""The report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from statistics import fmean

from autopatch.data import load_masks
from autopatch.detector import Detector, patchcore_architecture
from autopatch.progress import Progress
from autopatch.report import Candidate, Failure, Report, draw_cases, write_report
from autopatch.runs.advice import advise
from autopatch.runs.folder import REPORT
from autopatch.runs.predictions import color_scale
from autopatch.runs.record import RunRecord
from autopatch.runs.results import DetectorResult, TestResults
from autopatch.runs.testing import TestSet
from autopatch.runs.verdicts import too_few
from autopatch.search import Trial, failed_candidates

_NAMES = {"fitted": "Fitted detector", "patchcore": "PatchCore baseline"}


def write_run_report(
    run: RunRecord, detector: Detector | None, *, progress: Progress | None = None
) -> Path:
    """Writes the folder "report" of a run.

    If `evaluate` has run, the report includes test results. If there is a detector, it includes the
    threshold and pictures of images.

    Args:
        run: The search.
        detector: A detector fitted on the images of the run; None if there is none yet.
        progress: Called after every batch of images.

    Returns:
        Path of the page.

    Raises:
        InputError: The detector does not belong to the run (see `RunRecord.require_own`), or the
            report cannot be written.
    """
    if detector is not None:
        run.require_own(detector)
    notes: list[str] = [run.front.note] if run.front.note else []
    results = _results(run, detector, notes)
    supernet = run.supernet
    advice = advise(run, None if detector is None else detector.threshold)
    report = Report(
        dataset=str(run.data),
        space=f"{run.space.name}, {run.space.size():,} architectures",
        weights=supernet.provenance,
        random_features=supernet.random_features,
        split=run.split,
        seed=run.seed,
        evaluations=run.evaluations,
        objectives=run.objectives,
        constraints=[constraint.describe() for constraint in run.constraints],
        latency=None if run.latency_table is None else run.latency_table.describe(),
        reuse=_reuse(run.trials),
        optimizer=run.optimizer,
        candidates=_candidates(run, results),
        failures=[
            Failure(t.number, t.architecture.describe(supernet), str(t.reason))
            for t in failed_candidates(run.trials)
        ],
        types=results.types if results is not None else (),
        rule=run.rule,
        advice=(advice.trust, advice.help),
        synthetic=run.synthetic,
        reading=run.reading,
        verdicts=_verdicts(results),
        warnings=_warnings(results, detector),
        notes=notes,
    )
    if results is not None or detector is not None:
        tested = TestSet.of(run, progress)
        report = replace(report, test=tested.samples, is_test_drawn=tested.synthetic)
    if detector is not None:
        report = _with_cases(run, detector, tested, report, progress)
    else:
        fit = f"autopatch fit {quote(str(run.path))}"
        notes.append(f"There are no pictures because no detector has been fitted; run {fit}")
    return write_report(run.path / REPORT, report)


def _verdicts(results: TestResults | None) -> list[str]:
    """How often the fitted detector and the PatchCore baseline are wrong on the test set."""
    return [
        f"{_NAMES[row.kind]}: {' '.join(row.verdicts.sentences())}"
        for row in (results.rows if results is not None else ())
        if row.verdicts is not None
    ]


def _warnings(results: TestResults | None, detector: Detector | None) -> list[str]:
    """What is wrong with the threshold of the fitted detector."""
    if results is not None and results.rows and results.rows[0].verdicts is not None:
        return results.rows[0].verdicts.warnings()
    warning = None if detector is None else too_few(detector.threshold)
    return [] if warning is None else [warning]


def _reuse(trials: Sequence[Trial]) -> dict[str, float]:
    """The mean shares of the work of a search that were in the cache."""
    shares: dict[str, list[float]] = {}
    for trial in trials:
        for name, share in (trial.evaluation.reuse if trial.evaluation else {}).items():
            shares.setdefault(name, []).append(share)
    return {name: fmean(of_trials) for name, of_trials in shares.items()}


def _results(run: RunRecord, detector: Detector | None, notes: list[str]) -> TestResults | None:
    """The results on the test set; None, with an added note, if missing or outdated."""
    evaluate = f"autopatch evaluate {quote(str(run.path))}"
    results = TestResults.load(run.path)
    if results is None:
        notes.append(f"There are no test results yet; run {evaluate}")
        return None
    reason = _why_outdated(results, run, detector)
    if reason is not None:
        notes.append(f"The test results are left out because {reason}; run {evaluate}")
        return None
    return results


def _why_outdated(results: TestResults, run: RunRecord, detector: Detector | None) -> str | None:
    if results.data_digest != run.data_digest:
        return "they were measured on other images"
    if detector is not None and not results.belongs_to(detector):
        return "they belong to another detector"
    if {row.trial for row in results.front} != {trial.number for trial in run.front.trials}:
        return "the search has grown since they were measured"
    return None


def _candidates(run: RunRecord, results: TestResults | None) -> list[Candidate]:
    """All evaluated trials, and the PatchCore baseline if it was measured."""
    front = run.front
    supernet = run.supernet
    measured = results.rows if results is not None else ()
    on_front = {trial.number for trial in front.trials}
    tests = {row.trial: _on_test(row) for row in measured if row.kind == "front"}
    candidates = [
        Candidate(
            number=trial.number,
            label=trial.architecture.describe(supernet),
            values=trial.evaluation.values,
            backbone_flops=supernet.flops(
                trial.architecture.backbone, trial.architecture.input.size
            ),
            validation=trial.evaluation.metrics,
            on_front=trial.number in on_front,
            is_pick=trial.number == front.pick.number,
            test=tests.get(trial.number),
        )
        for trial in run.trials
        if trial.evaluation is not None
    ]
    patchcore = patchcore_architecture(supernet, images=len(run.good))
    costs = run.objectives[:-1] or run.objectives
    for row in measured:
        if row.kind == "patchcore" and patchcore is not None:
            candidates.append(
                Candidate(
                    number=None,
                    label=row.label,
                    # Without the quality, which was measured on the test set.
                    values={o.name: row.values[o.name] for o in costs if o.name in row.values},
                    backbone_flops=supernet.flops(patchcore.backbone, patchcore.input.size),
                    is_patchcore=True,
                    test=_on_test(row),
                )
            )
    return candidates


def _on_test(row: DetectorResult) -> dict[str, float]:
    """Metrics and values of the objectives on the test set, by name."""
    return {**row.metrics, **row.values}


def _with_cases(
    run: RunRecord,
    detector: Detector,
    tested: TestSet,
    report: Report,
    progress: Progress | None,
) -> Report:
    test = [
        replace(sample, type=f"synthetic {sample.type}")
        if tested.synthetic and sample.label
        else sample
        for sample in tested.samples
    ]
    prediction = detector.predict([sample.image for sample in test], progress=progress)
    cases = draw_cases(
        test,
        prediction.anomaly_map.numpy(force=True),
        load_masks(test, detector.evaluation_size, run.reading).numpy(),
        prediction.pred_score.tolist(),
        color_scale(detector),
        threshold=detector.threshold.value,
        reading=run.reading,
        warning="RANDOM features" if run.supernet.random_features else "",
    )
    return replace(
        report,
        threshold=detector.threshold.describe(),
        fitted=detector.architecture.describe(run.supernet),
        known=detector.describe_known(),
        cases=cases,
    )
