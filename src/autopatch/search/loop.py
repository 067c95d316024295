"""The loop of the search: propose, evaluate, record."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from autopatch.errors import InputError, one_line
from autopatch.search.evaluation import Evaluator
from autopatch.search.front import Front, Trial, non_dominated
from autopatch.search.nsga2 import NSGA2
from autopatch.search.optimizer import PENALTY, Genome, Optimizer
from autopatch.search.study import INTERRUPTED, Plan, Study
from autopatch.search.tpe import TPE


class SearchError(RuntimeError):
    """A search without a result: every candidate failed. The message carries the first reason."""


class SearchProgress(Protocol):
    """Called after every evaluation that was made now, not for results taken from the record.

    Args:
        done: Architectures evaluated so far, those taken from the record included.
        total: Architectures to evaluate.
        trial: The one just finished.
        front: Number of non-dominated trials so far.
    """

    def __call__(self, done: int, total: int, trial: Trial, front: int, /) -> None: ...


def search(evaluate: Evaluator, study: Study, *, progress: SearchProgress | None = None) -> Front:
    """Searches the study's space for the Pareto front of its cost and 1 - rwAP.

    A study with results is replayed: a fresh optimizer proposes the same genomes and is told what
    the record holds, so the front is that of an uninterrupted search.

    Args:
        evaluate: Scores one architecture; its cost is the one that the study's plan names.
        study: The record, new or resumed.
        progress: Told of every evaluation.

    Raises:
        SearchError: If every candidate fails, of the first generation or, where the optimizer
            proposes fewer at a time, of as many.
        InputError: If the evaluator raises it, or if the stored results are not those that this
            version of the optimizer proposes.
    """
    plan = study.plan
    optimizer = _optimizer(plan)
    recorded = deque(trial for trial in study.trials() if trial.reason != INTERRUPTED)
    total = min(plan.evaluations, plan.space.size())
    done: list[Trial] = []
    while len(done) < plan.evaluations:
        genomes = optimizer.ask()
        if not genomes:
            break
        generation: list[Trial] = []
        for genome in genomes[: plan.evaluations - len(done)]:
            if recorded:
                generation.append(_replay(study, recorded.popleft(), genome))
                continue
            trial = _evaluate(evaluate, study, genome)
            generation.append(trial)
            if progress is not None:
                so_far = done + generation
                progress(len(so_far), total, trial, len(non_dominated(so_far)))
        done += generation
        if len(done) >= plan.population and not any(trial.evaluation for trial in done):
            break
        if len(generation) == len(genomes):
            optimizer.tell(
                [t.evaluation.objectives if t.evaluation else PENALTY for t in generation]
            )
    front = non_dominated(done)
    if not front:
        raise SearchError(f"all {len(done)} candidates failed, the first: {done[0].reason}")
    return Front(
        trials=front,
        evaluated=len(done),
        failed=sum(trial.evaluation is None for trial in done),
        note=_note(plan, len(done)),
    )


def _optimizer(plan: Plan) -> Optimizer:
    if plan.sampler == "tpe":
        return TPE(plan.space, seed=plan.seed, initial=plan.genomes())
    return NSGA2(plan.space, seed=plan.seed, population=plan.population, initial=plan.genomes())


def _note(plan: Plan, evaluated: int) -> str | None:
    if evaluated == plan.evaluations:
        return None
    ended = f"the search ended after {evaluated} of {plan.evaluations} evaluations: "
    size = plan.space.size()
    if evaluated == size:
        return ended + f"no architecture of the space's {size} is left that was not evaluated"
    return ended + f"the optimizer proposes nothing new among the space's {size} architectures"


def _replay(study: Study, trial: Trial, genome: Genome) -> Trial:
    if trial.genome != genome:
        raise InputError(
            f"{study.path}: trial {trial.number} holds the genome {trial.genome}, but the "
            f"optimizer proposes {genome}: made with other versions of autopatch, pymoo, optuna or "
            "numpy"
        )
    return trial


def _evaluate(evaluate: Evaluator, study: Study, genome: Genome) -> Trial:
    number = study.start(genome)
    try:
        evaluation = evaluate(study.plan.space.decode(genome))
    except BaseException as error:
        # MemoryError counts as a failure: a smaller candidate may well fit.
        if isinstance(error, Exception) and not isinstance(error, InputError):
            name, message = type(error).__name__, one_line(error)
            return study.fail(number, name if message == name else f"{name}: {message}")
        study.fail(number, INTERRUPTED)
        raise
    return study.complete(number, evaluation)
