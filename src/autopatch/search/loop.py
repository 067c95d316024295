"""The loop of the search: propose, evaluate, record."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Protocol

from autopatch.errors import (
    InputError,
    MachineError,
    MachineFailure,
    machine_failure,
    one_line,
)
from autopatch.search.evaluation import CallbackError, Evaluation, Evaluator
from autopatch.search.executor import InProcessExecutor
from autopatch.search.front import Front
from autopatch.search.optimizer import SAMPLERS, Score
from autopatch.search.rules import RULES
from autopatch.search.space import Genome
from autopatch.search.study import Plan, Study
from autopatch.search.trials import Trial, non_dominated, none_feasible

FAILURES_IN_A_ROW = 3
"""A search stops after this many successive failures of the machine of one kind."""

_WORDS = {"memory": "ran out of memory", "system": "ended with a system error"}


class SearchError(RuntimeError):
    """Every candidate of a search failed. The message gives the first reason."""


class SearchProgress(Protocol):
    """Called after every new evaluation, but not for results read from the record.

    Args:
        done: Number of architectures evaluated so far, including those read from the record.
        total: Number of architectures to evaluate.
        trial: The trial that just finished.
        front: Number of non-dominated trials so far.
    """

    def __call__(self, done: int, total: int, trial: Trial, front: int, /) -> None: ...


def search(
    evaluate: Evaluator,
    study: Study,
    *,
    progress: SearchProgress | None = None,
    executor: Executor | None = None,
    workers: int = 1,
) -> Front:
    """Searches the study's space for the Pareto front of its objectives.

    A study with results is replayed: a new optimizer proposes the same genomes and receives the
    recorded results, so the front is the same as without the interruption. The optimizer receives
    whole generations, so the front does not depend on the order in which evaluations finish.

    If the evaluation of a candidate raises an exception, the candidate has failed and the search
    continues. The search stops if the machine is at fault:

    - The device fails for good, such as after an illegal memory access.
    - `FAILURES_IN_A_ROW` candidates in a row run out of memory, on a GPU or the host, or all raise
      an OSError.
    - Every candidate of the first generation runs out of memory or raises an OSError.

    A resumed search evaluates these candidates again. A candidate counts as failed if it runs out
    of memory or raises an OSError, and a later candidate does not, or if this happens to it again
    in the resumed search. A failure of the device never counts as the candidate's.

    Args:
        evaluate: Scores one architecture; returns a value for each objective of the plan.
        study: The record, new or resumed.
        progress: Called after every new evaluation.
        executor: Runs the evaluations; if None, they run in this process, one at a time. With
            processes the evaluator must be picklable. The executor is not shut down.
        workers: Maximum number of evaluations in flight. It is limited by the number of genomes
            that the optimizer proposes at a time: one, but a generation for "nsga2".

    Raises:
        SearchError: If all candidates of the first generation fail; with an optimizer that proposes
            fewer at a time, if the first `population` candidates of the plan all fail.
        MachineError: If the machine is at fault.
        Exception: The error of a progress callback.
        InputError: If the evaluator raises it, the study cannot be written, this version of the
            optimizer does not propose the stored genomes, or `workers` is not positive.
    """
    if workers < 1:
        raise InputError(f"`workers` is {workers}, expected at least 1")
    plan = study.plan
    optimizer = SAMPLERS[plan.sampler].make(
        space=plan.space,
        seed=plan.seed,
        population=plan.population,
        initial=plan.genomes(),
        objectives=plan.objectives,
        constraints=plan.constraints,
    )
    trials = study.trials()
    recorded = {trial.genome: trial for trial in trials if trial.counts}
    broke_device = {trial.genome: trial for trial in trials if trial.failure == "device"}
    outcomes: dict[Genome, Trial] = {}
    failures: list[Trial] = []

    def finished(trial: Trial) -> None:
        outcomes[trial.genome] = trial
        if progress is not None:
            front = non_dominated(outcomes.values(), plan.objectives, plan.constraints)
            progress(len(outcomes), plan.total, trial, len(front))
        _require_sound_machine(trial, failures, broke_device.get(trial.genome))

    while len(outcomes) < plan.evaluations:
        genomes = optimizer.ask()
        if not genomes:
            break
        places = dict(enumerate(genomes[: plan.evaluations - len(outcomes)], len(outcomes)))
        outcomes.update({g: recorded.pop(g) for g in places.values() if g in recorded})
        new = [(place, genome) for place, genome in places.items() if genome not in outcomes]
        if new:
            _require_none_left(study, recorded)
        _evaluate(evaluate, study, new, executor or InProcessExecutor(), workers, finished)
        if len(outcomes) >= plan.population and not any(t.evaluation for t in outcomes.values()):
            break
        if len(places) == len(genomes):
            evaluations = [outcomes[genome].evaluation for genome in genomes]
            optimizer.tell(
                [
                    Score(e.losses(plan.objectives), e.excesses(plan.constraints)) if e else None
                    for e in evaluations
                ]
            )
    _require_none_left(study, recorded)
    front = non_dominated(outcomes.values(), plan.objectives, plan.constraints)
    if not front:
        raise _without_result(outcomes.values())
    notes = filter(
        None,
        (_note(plan, len(outcomes)), none_feasible(outcomes.values(), plan.constraints)),
    )
    return Front(
        trials=front,
        objectives=plan.objectives,
        evaluated=len(outcomes),
        failed=sum(trial.evaluation is None for trial in outcomes.values()),
        rule=RULES[plan.rule],
        note="; ".join(notes) or None,
    )


def _without_result(outcomes: Collection[Trial]) -> SearchError | MachineError:
    """The error of a search in which every candidate failed."""
    if not outcomes:
        return SearchError("the optimizer proposed no architecture that is allowed")
    first = min(outcomes, key=lambda trial: trial.place)
    count = len(outcomes)
    if any(trial.counts for trial in outcomes):
        if count == 1:
            return SearchError(f"the only candidate failed: {first.reason}")
        return SearchError(f"all {count} candidates failed, the first: {first.reason}")
    how = " or ".join(dict.fromkeys(_WORDS[t.failure] for t in outcomes if t.failure in _WORDS))
    if count == 1:
        return MachineError(
            f"the only trial {how}: {first.reason}; resume the search to evaluate it again"
        )
    return MachineError(
        f"all {count} trials {how}, the first: {first.reason}; resume the search to evaluate them "
        "again"
    )


def _note(plan: Plan, evaluated: int) -> str | None:
    if evaluated == plan.evaluations:
        return None
    ended = f"the search ended after {evaluated} of {plan.evaluations} evaluations: "
    size = plan.space.size()
    if evaluated == size:
        return ended + f"no architecture of the space's {size} is left that was not evaluated"
    allowed = "" if plan.space.allows is None else " that are allowed"
    return (
        ended
        + f"the optimizer proposes nothing new among the space's {size} architectures{allowed}"
    )


def _require_none_left(study: Study, recorded: dict[Genome, Trial]) -> None:
    """Raises InputError if the record holds genomes that the optimizer has not proposed yet.

    An optimizer that replays the record proposes all recorded genomes before any new one.
    """
    for trial in recorded.values():
        raise InputError(
            f"{study.path}: trial {trial.number} holds an architecture that the optimizer does "
            "not propose there; the record was made with other versions of autopatch, pymoo, "
            "optuna, scipy or numpy"
        )


def _require_sound_machine(trial: Trial, failures: list[Trial], earlier: Trial | None) -> None:
    """Raises MachineError if a trial shows that the machine, not the architecture, is at fault.

    Args:
        trial: The last finished trial.
        failures: Successive failures of the machine, all of one kind, before this trial; updated.
        earlier: An earlier trial of the same genome in which the device failed, if any.
    """
    if trial.counts or (failures and failures[-1].failure != trial.failure):
        failures.clear()
    if trial.counts or trial.failure is None:
        return
    failures.append(trial)
    if trial.failure == "device" and earlier is not None:
        raise MachineError(
            f"trial {trial.number}: the device failed at the same architecture as in trial "
            f"{earlier.number}: {trial.reason}; resume the search on another `device`"
        )
    if trial.failure == "device":
        raise MachineError(
            f"trial {trial.number}: the device failed: {trial.reason}; resume the search to "
            "evaluate the trial again"
        )
    if len(failures) == FAILURES_IN_A_ROW:
        raise MachineError(
            f"{FAILURES_IN_A_ROW} trials in a row {_WORDS[trial.failure]}, the last: "
            f"{trial.reason}; resume the search to evaluate them again"
        )


def _evaluate(
    evaluate: Evaluator,
    study: Study,
    proposed: Sequence[tuple[int, Genome]],
    executor: Executor,
    workers: int,
    finished: Callable[[Trial], None],
) -> None:
    """Evaluates genomes and records the results.

    Args:
        evaluate: Scores one architecture.
        study: The record.
        proposed: Place and genome of each proposal.
        executor: Runs the evaluations.
        workers: Maximum number of evaluations in flight.
        finished: Called with each trial once it is recorded.

    Raises:
        BaseException: The error that ends the search. Trials in flight are recorded as interrupted.
    """
    waiting = deque(proposed)
    running: dict[int, Future[Evaluation]] = {}
    try:
        while waiting or running:
            # Finished evaluations are recorded before new ones start.
            while waiting and len(running) < workers and not _any_done(running):
                place, genome = waiting.popleft()
                number = study.start(genome, place)
                running[number] = executor.submit(evaluate, study.plan.space.decode(genome))
            wait(running.values(), return_when=FIRST_COMPLETED)
            for number in [n for n, future in running.items() if future.done()]:
                outcome = _outcome(running.pop(number), study.plan)
                if isinstance(outcome, Evaluation):
                    trial = study.complete(number, outcome)
                else:
                    trial = study.fail(number, *outcome)
                finished(trial)
    except BaseException:
        for future in running.values():
            future.cancel()
        with contextlib.suppress(Exception):  # a resumed search does the same
            study.interrupt()
        raise


def _any_done(running: dict[int, Future[Evaluation]]) -> bool:
    return any(future.done() for future in running.values())


def _outcome(
    future: Future[Evaluation], plan: Plan
) -> Evaluation | tuple[str, MachineFailure | None]:
    """The evaluation; for a failed candidate the reason, and how the machine failed (None if it did
    not).

    Raises:
        BaseException: An error that ends the search.
    """
    # Do not raise a failed candidate's error: its traceback would hold this frame, and this frame
    # the future, which would keep the candidate's arrays in memory.
    error = future.exception()
    if error is None:
        evaluation = future.result()
        for what, given, of in (
            ("values", evaluation.values, plan.objectives),
            ("bounded values", evaluation.bounded, plan.constraints),
        ):
            found, expected = sorted(given), [each.name for each in of]
            if found != sorted(expected):
                return f"ValueError: {what} are {found}, expected those of {expected}", None
        return evaluation
    if isinstance(error, CallbackError):
        raise error.error
    if not isinstance(error, Exception) or isinstance(error, InputError | BrokenExecutor):
        raise error
    name, message = type(error).__name__, one_line(error)
    return name if message == name else f"{name}: {message}", machine_failure(error)
