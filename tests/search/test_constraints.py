"""Constraints: bounds, feasibility, and what optimizers, front and record make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autopatch.detector import Architecture
from autopatch.errors import InputError
from autopatch.search import (
    SAMPLERS,
    Constraint,
    Evaluation,
    Plan,
    Score,
    SearchError,
    SearchSpace,
    Study,
    Trial,
    load_study,
    non_dominated,
    none_feasible,
    resolve_constraints,
    resolve_objectives,
    search,
)

Evaluate = Callable[[Architecture], Evaluation]

FLOPS, RWAP = resolve_objectives(["total_flops", "rwAP"])


def at_most(bound: float) -> Constraint:
    return Constraint(FLOPS, bound)


def test_bounds_are_upper_for_what_is_minimized_and_lower_for_what_is_maximized() -> None:
    latency, quality = resolve_constraints({"latency": 0.01, "image_AUROC": 0.8})
    assert latency.excess(0.012) == pytest.approx(0.2)
    assert latency.excess(0.01) == 0
    assert latency.excess(0.001) < 0
    assert quality.excess(0.6) == pytest.approx(0.25)
    assert quality.excess(0.9) < 0
    assert latency.describe() == "latency at most 10.00 ms"
    assert replace(latency, bound=1.25e-6).describe() == "latency at most 0.0013 ms"
    assert latency.describe(0.0121) == "latency 12.10 ms (at most 10.00 ms)"
    assert quality.describe(0.5) == "image AUROC 50.00 % (at least 80.00 %)"
    assert Constraint.from_json(quality.to_json()) == quality


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), True, "3"])
def test_bounds_are_finite_numbers(bound: float) -> None:
    with pytest.raises(InputError, match=r"the bound of 'memory' is .*, expected a finite number"):
        resolve_constraints({"memory": bound})


def test_what_is_bounded_is_registered() -> None:
    with pytest.raises(InputError, match=r"objective is 'noise', expected one of 'latency'"):
        resolve_constraints({"noise": 1.0})


def trial_of(number: int, flops: float, rwap: float) -> Trial:
    values = {"total_flops": flops, "rwAP": rwap}
    evaluation = Evaluation(values, bounded={"total_flops": flops})
    return Trial(number, (number,), None, evaluation, None, 0.0, number)  # type: ignore[arg-type]


TRIALS = [
    trial_of(0, 9e9, 0.9),
    trial_of(1, 2e9, 0.5),
    trial_of(2, 3e9, 0.6),
    trial_of(3, 4e9, 0.4),
]


def numbers(constraints: tuple[Constraint, ...]) -> list[int]:
    return [t.number for t in non_dominated(TRIALS, (FLOPS, RWAP), constraints)]


def test_the_front_holds_no_infeasible_trial_while_there_is_a_feasible_one() -> None:
    assert numbers(()) == [1, 2, 0]
    assert numbers((at_most(3e9),)) == [1, 2]
    assert none_feasible(TRIALS, (at_most(3e9),)) is None


def test_without_a_feasible_trial_the_nearest_is_the_front() -> None:
    constraints = (at_most(1e9),)
    assert numbers(constraints) == [1]
    assert none_feasible(TRIALS, constraints) == (
        "none of 4 candidates meets the constraints; the nearest is trial 1: total 2.00 GFLOP (at "
        "most 1.00 GFLOP)"
    )
    assert none_feasible([], constraints) is None


def bounded(evaluate: Evaluate) -> Evaluate:
    def evaluation(architecture: Architecture) -> Evaluation:
        plain = evaluate(architecture)
        return replace(plain, bounded={"total_flops": plain.values["total_flops"]})

    return evaluation


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_the_optimizer_looks_where_the_constraints_are_met(
    space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    constraint = at_most(4e8)

    def share_met(constraints: tuple[Constraint, ...]) -> float:
        optimizer = SAMPLERS[sampler].make(
            space=space,
            seed=0,
            population=8,
            initial=(),
            objectives=(RWAP,),
            constraints=constraints,
        )
        costs: list[float] = []
        while len(costs) < 64:
            scores = []
            for genome in optimizer.ask():
                found = evaluate(space.decode(genome)).values
                costs.append(found["total_flops"])
                excesses = tuple(c.excess(costs[-1]) for c in constraints)
                scores.append(Score((1.0 - found["rwAP"],), excesses))
            optimizer.tell(scores)
        return sum(constraint.excess(cost) <= 0 for cost in costs[32:]) / len(costs[32:])

    assert share_met((constraint,)) > share_met(()) + 0.2


def test_a_search_records_what_is_bounded_and_resumes(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    plan = Plan(space, evaluations=12, population=6, constraints=(at_most(1e9),))
    with Study.create(tmp_path / "whole.db", plan) as study:
        front = search(bounded(evaluate), study)
        whole = study.trials()
    assert all(t.evaluation and t.evaluation.bounded["total_flops"] <= 1e9 for t in front.trials)
    assert any(t.evaluation and t.evaluation.violation(plan.constraints) > 0 for t in whole)
    assert front.pick in front.trials

    with Study.create(tmp_path / "half.db", replace(plan, evaluations=6)) as study:
        search(bounded(evaluate), study)
    with Study.resume(tmp_path / "half.db", plan) as study:
        resumed = search(bounded(evaluate), study)
    assert [t.genome for t in resumed.trials] == [t.genome for t in front.trials]
    assert load_study(tmp_path / "half.db").constraints == plan.constraints

    looser = replace(plan, constraints=(at_most(2e9),))
    expected = r'constraints` = {"total_flops": 1000000000.0}, cannot resume it with'
    with pytest.raises(InputError, match=expected):
        Study.resume(tmp_path / "half.db", looser)


def test_a_search_without_a_feasible_candidate_says_so(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    plan = Plan(space, evaluations=4, population=4, constraints=(at_most(1.0),))
    with Study.create(tmp_path / "study.db", plan) as study:
        front = search(bounded(evaluate), study)
    assert front.note is not None
    assert front.note.startswith("none of 4 candidates meets the constraints; the nearest is")
    assert len(front.trials) == 1


def test_an_evaluator_measures_what_is_bounded(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    plan = Plan(space, evaluations=1, constraints=(at_most(1.0),))
    message = r"bounded values are \[\], expected those of \['total_flops'\]"
    with (
        Study.create(tmp_path / "study.db", plan) as study,
        pytest.raises(SearchError, match=message),
    ):
        search(evaluate, study)


def test_latency_needs_a_table(space: SearchSpace) -> None:
    with pytest.raises(InputError, match="'latency' needs a latency table, but there is none"):
        Plan(space, evaluations=1, constraints=resolve_constraints({"latency": 0.01}))
