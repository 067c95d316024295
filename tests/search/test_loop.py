from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import sqlite3
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest
import torch

from autopatch.detector import Architecture
from autopatch.errors import InputError, MachineError
from autopatch.search import (
    Evaluation,
    Front,
    Objective,
    Plan,
    SearchError,
    SearchSpace,
    Study,
    Trial,
    load_trials,
    non_dominated,
    search,
)
from autopatch.search.evaluation import CallbackError
from autopatch.search.loop import FAILURES_IN_A_ROW

Evaluate = Callable[[Architecture], Evaluation]
Told = list[tuple[int, int, int, int]]


EIGHT: dict[str, Any] = {"evaluations": 8, "population": 3, "sampler": "nsga2"}


class Interrupting:
    """Evaluates until call number `at`, which raises `error` instead; records the requested
    architectures."""

    def __init__(
        self, evaluate: Evaluate, *, at: int, error: type[BaseException] = KeyboardInterrupt
    ) -> None:
        self.evaluate = evaluate
        self.at = at
        self.error = error
        self.asked: list[Architecture] = []

    def __call__(self, architecture: Architecture) -> Evaluation:
        self.asked.append(architecture)
        if len(self.asked) == self.at:
            raise self.error("stop")
        return self.evaluate(architecture)


def failing_on(evaluate: Evaluate, *, level: int) -> Evaluate:
    def evaluation(architecture: Architecture) -> Evaluation:
        if level in architecture.backbone.levels:
            raise RuntimeError(f"level {level}\nis broken")
        return evaluate(architecture)

    return evaluation


def contents(trials: Sequence[Trial]) -> list[object]:
    """The contents of trials, except numbers and durations."""
    return [(trial.genome, trial.evaluation, trial.reason) for trial in trials]


def assert_same_search(path: Path, front: Front, reference: Path, expected: Front) -> None:
    done = [trial for trial in load_trials(path) if trial.counts]
    done.sort(key=lambda trial: trial.place)
    assert [trial.place for trial in done] == list(range(len(done)))
    assert contents(done) == contents(load_trials(reference))
    assert contents(front.trials) == contents(expected.trials)
    assert contents((front.pick,)) == contents((expected.pick,))
    assert (front.evaluated, front.failed) == (expected.evaluated, expected.failed)


def test_evaluates_each_architecture_once(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, objectives: tuple[Objective, ...]
) -> None:
    path = tmp_path / "study.db"
    spy = Interrupting(evaluate, at=0)
    with Study.create(path, Plan(space, evaluations=16, population=6)) as study:
        front = search(spy, study)
    assert len(spy.asked) == len(set(spy.asked)) == 16
    trials = load_trials(path)
    assert [trial.architecture for trial in trials] == spy.asked
    assert front.trials == non_dominated(trials, objectives)
    assert front.objectives == objectives
    assert (front.evaluated, front.failed, front.note) == (16, 0, None)
    assert front.pick.evaluation is not None
    assert front.pick.evaluation.values["rwAP"] == max(
        trial.evaluation.values["rwAP"] for trial in trials if trial.evaluation
    )


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_only_allowed_architectures_are_evaluated(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    small = replace(space, allows=lambda architecture: architecture.head.bank_size == 500)
    spy = Interrupting(evaluate, at=0)
    plan = Plan(small, evaluations=30, population=6, sampler=sampler)
    with Study.create(tmp_path / "study.db", plan) as study:
        search(spy, study)
    assert len(spy.asked) == 30
    assert {architecture.head.bank_size for architecture in spy.asked} == {500}


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_initial_architectures_come_first(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, sampler: str
) -> None:
    initial = [space.decode((1, 1, 0, 0, 1, 1, 1, 1, 0, 0)), space.decode((0,) * 8 + (1, 3))]
    path = tmp_path / "study.db"
    plan = Plan(space, evaluations=4, initial=initial, sampler=sampler)
    with Study.create(path, plan) as study:
        search(evaluate, study)
    assert [trial.architecture for trial in load_trials(path)[:2]] == initial


def test_progress(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, objectives: tuple[Objective, ...]
) -> None:
    told: Told = []

    def progress(done: int, total: int, trial: Trial, front: int) -> None:
        told.append((done, total, trial.number, front))

    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=5, population=4)) as study:
        search(evaluate, study, progress=progress)
    sizes = [len(non_dominated(load_trials(path)[: i + 1], objectives)) for i in range(5)]
    assert told == [(i + 1, 5, i, sizes[i]) for i in range(5)]

    told.clear()
    with Study.resume(path, Plan(space, evaluations=7, population=4)) as study:
        search(evaluate, study, progress=progress)
    assert [entry[:3] for entry in told] == [(6, 7, 5), (7, 7, 6)]


@pytest.fixture(scope="module")
def broken_level(evaluate: Evaluate) -> Evaluate:
    return failing_on(evaluate, level=3)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, space: SearchSpace, broken_level: Evaluate
) -> tuple[Path, Front]:
    """A search of 8 in generations of 3, in which some candidates fail."""
    path = tmp_path_factory.mktemp("uninterrupted") / "study.db"
    with Study.create(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert 0 < front.failed < 8
    return path, front


@pytest.mark.parametrize(
    ("at", "error"), [*((at, KeyboardInterrupt) for at in (1, 3, 4, 6, 8)), (5, InputError)]
)
def test_interrupted_at_any_evaluation(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted: tuple[Path, Front],
    at: int,
    error: type[BaseException],
) -> None:
    path = tmp_path / "study.db"
    with (
        Study.create(path, Plan(space, **EIGHT)) as study,
        pytest.raises(error, match="stop"),
    ):
        search(Interrupting(broken_level, at=at, error=error), study)
    assert [trial.reason for trial in load_trials(path)][at - 1 :] == ["interrupted"]
    spy = Interrupting(broken_level, at=0)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(spy, study)
    assert_same_search(path, front, *uninterrupted)
    assert len(spy.asked) == 8 - (at - 1)
    assert len(load_trials(path)) == 9


def test_interrupted_several_times(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted: tuple[Path, Front],
) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, **EIGHT)).close()
    for at in (3, 1, 4):
        with (
            Study.resume(path, Plan(space, **EIGHT)) as study,
            pytest.raises(KeyboardInterrupt),
        ):
            search(Interrupting(broken_level, at=at), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted)
    assert sum(trial.reason == "interrupted" for trial in load_trials(path)) == 3


def test_more_evaluations_later_or_at_once(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted: tuple[Path, Front],
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=4, population=3, sampler="nsga2")) as study:
        search(broken_level, study)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted)


@pytest.fixture(scope="module")
def uninterrupted_tpe(
    tmp_path_factory: pytest.TempPathFactory, space: SearchSpace, broken_level: Evaluate
) -> tuple[Path, Front]:
    """A search with more than the ten results after which the sampler starts to use them."""
    path = tmp_path_factory.mktemp("uninterrupted") / "study.db"
    with Study.create(path, Plan(space, evaluations=26, population=8, sampler="tpe")) as study:
        front = search(broken_level, study)
    assert front.evaluated - front.failed > 12
    return path, front


@pytest.mark.parametrize("at", [12, 26])
def test_tpe_interrupted(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted_tpe: tuple[Path, Front],
    at: int,
) -> None:
    plan = Plan(space, evaluations=26, population=8, sampler="tpe")
    path = tmp_path / "study.db"
    with Study.create(path, plan) as study, pytest.raises(KeyboardInterrupt):
        search(Interrupting(broken_level, at=at), study)
    with Study.resume(path, plan) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted_tpe)


def test_a_finished_search_is_not_repeated(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=6, population=4)) as study:
        expected = search(evaluate, study)
    spy = Interrupting(evaluate, at=1)
    with Study.resume(path, Plan(space, evaluations=6, population=4)) as study:
        assert search(spy, study) == expected
    assert spy.asked == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_sigkill(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted: tuple[Path, Front],
) -> None:
    path = tmp_path / "study.db"

    def killed() -> None:
        calls = 0

        def deadly(architecture: Architecture) -> Evaluation:
            nonlocal calls
            calls += 1
            if calls == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return broken_level(architecture)

        search(deadly, Study.create(path, Plan(space, **EIGHT)))

    # A fork, as a new process would take seconds to import everything.
    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [trial.number for trial in load_trials(path) if trial.counts] == [0, 1, 2, 3]
    assert [trial.reason for trial in load_trials(path)[4:]] == ["not finished"]

    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted)
    assert load_trials(path)[4].reason == "interrupted"


def test_failed_candidates_count_and_keep_their_reason(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=10, population=5)) as study:
        front = search(failing_on(evaluate, level=0), study)
    failed = [trial for trial in load_trials(path) if trial.evaluation is None]
    assert front.failed == len(failed) > 0
    assert front.evaluated == 10
    assert {trial.reason for trial in failed} == {"RuntimeError: level 0 is broken"}
    assert all(0 not in trial.architecture.backbone.levels for trial in front.trials)


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_all_fail(tmp_path: Path, space: SearchSpace, sampler: str) -> None:
    def broken(architecture: Architecture) -> Evaluation:
        raise ArithmeticError

    path = tmp_path / "study.db"
    plan = Plan(space, evaluations=20, population=5, sampler=sampler)
    with (
        Study.create(path, plan) as study,
        pytest.raises(SearchError, match=r"^all 5 candidates failed, the first: ArithmeticError$"),
    ):
        search(broken, study)
    assert len(load_trials(path)) == 5
    with (
        Study.resume(path, plan) as study,
        pytest.raises(SearchError, match="all 5 candidates failed"),
    ):
        search(broken, study)
    assert len(load_trials(path)) == 5


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_all_of_a_small_space_fail(tmp_path: Path, small_space: SearchSpace, sampler: str) -> None:
    def broken(architecture: Architecture) -> Evaluation:
        raise ArithmeticError

    plan = Plan(small_space, evaluations=50, population=20, sampler=sampler)
    with (
        Study.create(tmp_path / "study.db", plan) as study,
        pytest.raises(SearchError, match=r"^all 16 candidates failed"),
    ):
        search(broken, study)


def test_first_candidates_of_tpe_fail(tmp_path: Path, space: SearchSpace) -> None:
    calls = 0

    def failing_at_first(architecture: Architecture) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise ArithmeticError
        return Evaluation({"total_flops": calls, "rwAP": 0.5})

    plan = Plan(space, evaluations=6, population=5, sampler="tpe")
    with Study.create(tmp_path / "study.db", plan) as study:
        front = search(failing_at_first, study)
    assert (front.evaluated, front.failed) == (6, 4)


def test_value_out_of_range_fails_the_candidate(tmp_path: Path, space: SearchSpace) -> None:
    def undefined(architecture: Architecture) -> Evaluation:
        return Evaluation({"total_flops": 1, "rwAP": float("nan")})

    with (
        Study.create(tmp_path / "study.db", Plan(space, evaluations=3)) as study,
        pytest.raises(SearchError, match=r"all 3 candidates .*: ValueError: rwAP is nan"),
    ):
        search(undefined, study)


def test_space_smaller_than_evaluations(
    tmp_path: Path, small_space: SearchSpace, evaluate: Evaluate
) -> None:
    totals = set()

    def progress(done: int, total: int, trial: Trial, front: int) -> None:
        totals.add(total)

    path = tmp_path / "study.db"
    with Study.create(path, Plan(small_space, evaluations=50, population=5)) as study:
        front = search(evaluate, study, progress=progress)
    assert front.evaluated == 16
    assert front.note is not None
    assert front.note.startswith("the search ended after 16 of 50 evaluations")
    assert len({trial.architecture for trial in load_trials(path)}) == 16
    assert totals == {16}


def test_tpe_proposes_nothing_new(
    tmp_path: Path,
    small_space: SearchSpace,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autopatch.search.tpe._PROPOSALS", 2)
    plan = Plan(small_space, evaluations=16, sampler="tpe")
    with Study.create(tmp_path / "study.db", plan) as study:
        front = search(evaluate, study)
    assert front.evaluated < 16
    assert front.note == (
        f"the search ended after {front.evaluated} of 16 evaluations: the optimizer proposes "
        "nothing new among the space's 16 architectures"
    )


STRANGE = (0, 0, 1, 0, 0, 0, 0, 0, 0, 0)


def test_record_of_another_optimizer(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    spy = Interrupting(evaluate, at=0)
    with Study.create(path, Plan(space, evaluations=5, population=4)) as study:
        study.complete(study.start(STRANGE, 0), Evaluation({"total_flops": 1, "rwAP": 0.5}))
        with pytest.raises(InputError, match=r"study.db: trial 0 holds an architecture that the "):
            search(spy, study)
    assert spy.asked == []


@pytest.mark.parametrize("evaluations", [4, 6])
def test_record_that_holds_more_than_is_proposed(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, evaluations: int
) -> None:
    """Between generations, and after the end of the search."""
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=4, population=4)) as study:
        search(evaluate, study)
    with Study.resume(path, Plan(space, evaluations=evaluations, population=4)) as study:
        study.complete(study.start(STRANGE, 4), Evaluation({"total_flops": 1, "rwAP": 0.5}))
        spy = Interrupting(evaluate, at=0)
        with pytest.raises(InputError, match="trial 4 holds an architecture that the optim"):
            search(spy, study)
    assert spy.asked == []


@pytest.mark.parametrize("names", [["rwAP"], ["cost", "rwAP"], ["rwAP", "time", "total_flops"]])
def test_values_of_other_objectives(tmp_path: Path, space: SearchSpace, names: list[str]) -> None:
    def other(architecture: Architecture) -> Evaluation:
        return Evaluation(dict.fromkeys(names, 0.5))

    message = f"ValueError: values are {names}, expected those of ['total_flops', 'rwAP']"
    with (
        Study.create(tmp_path / "study.db", Plan(space, evaluations=3)) as study,
        pytest.raises(SearchError, match=re.escape(message)),
    ):
        search(other, study)


class Reversed(Executor):
    """Collects `batch` calls, then makes them in reverse order, in another thread.

    Each call waits until `progress` reports that the previous one was recorded.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.thread = ThreadPoolExecutor(1)
        self.recorded = Semaphore(0)
        self.held: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.order: list[int] = []
        self.submitted = 0
        self.most_in_flight = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.submitted += 1
        self.most_in_flight = max(self.most_in_flight, self.submitted - len(self.order))
        self.held.append((future, lambda: fn(*args, **kwargs)))
        if len(self.held) == self.batch:
            self.thread.submit(self.finish, self.held[::-1])
            self.held = []
        return future

    def finish(self, calls: Sequence[tuple[Future[Any], Callable[[], Any]]]) -> None:
        for future, call in calls:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            self.recorded.acquire()

    def progress(self, done: int, total: int, trial: Trial, front: int) -> None:
        assert done == len(self.order) + 1
        self.order.append(trial.number)
        self.recorded.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.recorded.release(self.batch)
        self.thread.shutdown(wait, cancel_futures=cancel_futures)


@pytest.fixture(scope="module", params=["gp", "nsga2", "tpe"])
def generations(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    space: SearchSpace,
    broken_level: Evaluate,
) -> tuple[Plan, Path, Front]:
    """A search of 15, with NSGA-II in generations of 6."""
    plan = Plan(space, evaluations=15, population=6, seed=2, sampler=request.param)
    path = tmp_path_factory.mktemp("generations") / "study.db"
    with Study.create(path, plan) as study:
        front = search(broken_level, study)
    assert 0 < front.failed < 15
    return plan, path, front


def test_results_in_another_order(
    tmp_path: Path, broken_level: Evaluate, generations: tuple[Plan, Path, Front]
) -> None:
    plan, reference, expected = generations
    path = tmp_path / "study.db"
    at_once = 3 if plan.sampler == "nsga2" else 1  # the others propose no more
    with Study.create(path, plan) as study, Reversed(at_once) as executor:
        front = search(
            broken_level, study, progress=executor.progress, executor=executor, workers=3
        )
    batches = range(0, 15, at_once)
    assert executor.order == [i for b in batches for i in reversed(range(b, b + at_once))]
    assert executor.most_in_flight == at_once
    assert_same_search(path, front, reference, expected)


@pytest.mark.parametrize(
    ("workers", "at"), [*((3, at) for at in (1, 2, 3, 5, 6, 8, 15)), (1, 2), (1, 8)]
)
@pytest.mark.parametrize("generations", ["nsga2"], indirect=True)
def test_interrupted_with_several_in_flight(
    tmp_path: Path,
    broken_level: Evaluate,
    generations: tuple[Plan, Path, Front],
    workers: int,
    at: int,
) -> None:
    plan, reference, expected = generations
    path = tmp_path / "study.db"
    with (
        Study.create(path, plan) as study,
        Reversed(3) as executor,
        pytest.raises(KeyboardInterrupt),
    ):
        search(
            Interrupting(broken_level, at=at),
            study,
            progress=executor.progress,
            executor=executor,
            workers=3,
        )
    reasons = [trial.reason for trial in load_trials(path)]
    interrupted = reasons.count("interrupted")
    assert len(reasons) - interrupted == at - 1
    assert "not finished" not in reasons
    assert 1 <= interrupted <= 3
    assert interrupted == 3 or at > 1

    spy = Interrupting(broken_level, at=0)
    with Study.resume(path, plan) as study, ThreadPoolExecutor(workers) as executor:
        front = search(spy, study, executor=executor, workers=workers)
    assert_same_search(path, front, reference, expected)
    assert len(spy.asked) == 15 - (at - 1)


def test_an_input_error_ends_all_in_flight(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    spy = Interrupting(evaluate, at=1, error=InputError)
    with (
        Study.create(path, Plan(space, evaluations=6, population=6, sampler="nsga2")) as study,
        Reversed(3) as executor,
        pytest.raises(InputError, match="stop"),
    ):
        search(spy, study, executor=executor, workers=3)
    assert [trial.reason for trial in load_trials(path)] == ["interrupted"] * 3


def test_an_interrupted_callback_ends_all_in_flight(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    def progress(done: int, total: int, trial: Trial, front: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "study.db"
    with (
        Study.create(path, Plan(space, evaluations=6, population=6, sampler="nsga2")) as study,
        Reversed(3) as executor,
        pytest.raises(KeyboardInterrupt),
    ):
        search(evaluate, study, progress=progress, executor=executor, workers=3)
    reasons = [trial.reason for trial in load_trials(path)]
    assert reasons == ["interrupted", "interrupted", None]


def test_a_broken_executor_is_no_fault_of_the_candidates(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    class Broken(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenExecutor("a process died"))
            return future

    path = tmp_path / "study.db"
    plan = Plan(space, evaluations=6)
    with Study.create(path, plan) as study, pytest.raises(BrokenExecutor, match="a process died"):
        search(evaluate, study, executor=Broken(), workers=3)
    assert {trial.reason for trial in load_trials(path)} == {"interrupted"}


def test_without_an_executor_each_result_is_recorded_before_the_next_call(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    unfinished: list[int] = []

    def watching(architecture: Architecture) -> Evaluation:
        unfinished.append(sum(t.reason == "not finished" for t in load_trials(path)))
        return evaluate(architecture)

    with Study.create(path, Plan(space, evaluations=4)) as study:
        search(watching, study, workers=3)
    assert unfinished == [1] * 4


def test_a_failed_candidate_lets_go_of_its_memory(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    class Array:
        pass

    kept: list[weakref.ref[Array]] = []

    def failing_at_first(architecture: Architecture) -> Evaluation:
        if kept:
            assert kept[0]() is None
            return evaluate(architecture)
        array = Array()
        kept.append(weakref.ref(array))
        raise MemoryError

    gc.collect()
    gc.disable()
    try:
        with Study.create(tmp_path / "study.db", Plan(space, evaluations=2)) as study:
            assert search(failing_at_first, study).failed == 1
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_out_of_range(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, workers: int
) -> None:
    with (
        Study.create(tmp_path / "study.db", Plan(space, evaluations=2)) as study,
        pytest.raises(InputError, match=f"`workers` is {workers}, expected at least 1"),
    ):
        search(evaluate, study, workers=workers)


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_three_objectives(
    tmp_path: Path,
    space: SearchSpace,
    evaluate: Evaluate,
    objectives: tuple[Objective, ...],
    sampler: str,
) -> None:
    def evaluation(architecture: Architecture) -> Evaluation:
        both = evaluate(architecture)
        return replace(both, values={**both.values, "levels": len(architecture.backbone.levels)})

    flops, rwap = objectives
    levels = Objective("levels", "levels", "", 1, "minimize", lambda fitted: 0.0)
    plan = Plan(
        space, evaluations=16, population=6, sampler=sampler, objectives=(flops, levels, rwap)
    )
    path = tmp_path / "study.db"
    with (
        Study.create(path, plan) as study,
        pytest.raises(KeyboardInterrupt),
    ):
        search(Interrupting(evaluation, at=13), study)
    with Study.resume(path, plan) as study:
        front = search(evaluation, study)
    trials = load_trials(path)
    assert front.trials == non_dominated(trials, plan.objectives)
    assert len(front.trials) > len(non_dominated(front.trials, (flops, levels))) > 0
    assert front.pick.evaluation is not None
    assert front.pick.evaluation.values["rwAP"] == max(
        trial.evaluation.values["rwAP"] for trial in trials if trial.evaluation
    )
    reference = tmp_path / "reference.db"
    with Study.create(reference, plan) as study:
        assert_same_search(path, front, reference, search(evaluation, study))


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def broken_device() -> Exception:
    return RuntimeError("CUDA error: an illegal memory access was encountered\nMore help")


class Failing:
    """Evaluates, except that some calls (counted from 1) raise an error."""

    def __init__(
        self, evaluate: Evaluate, at: Sequence[int], error: Callable[[], Exception]
    ) -> None:
        self.evaluate = evaluate
        self.at = at
        self.error = error
        self.calls = 0

    def __call__(self, architecture: Architecture) -> Evaluation:
        self.calls += 1
        if self.calls in self.at:
            raise self.error()
        return self.evaluate(architecture)


@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_device_that_fails_stops_the_search_at_once(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted: tuple[Path, Front],
    at: int,
) -> None:
    path = tmp_path / "study.db"
    with (
        Study.create(path, Plan(space, **EIGHT)) as study,
        pytest.raises(MachineError, match=rf"^trial {at - 1}: the device failed: Ru") as raised,
    ):
        search(Failing(broken_level, [at], broken_device), study)
    assert "\n" not in str(raised.value)
    last = load_trials(path)[-1]
    assert (last.number, last.failure, last.counts) == (at - 1, "device", False)
    # It is not the architecture's failure, however often it happens.
    for _ in range(2):
        with Study.resume(path, Plan(space, **EIGHT)) as study, pytest.raises(MachineError):
            search(Failing(broken_level, [1], broken_device), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted)


@pytest.mark.parametrize(
    ("error", "first"),  # in one generation, and in two
    [(out_of_memory, 1), (MemoryError, 4), (OSError, 4), (out_of_memory, 6), (OSError, 6)],
)
def test_failures_of_the_machine_in_a_row_stop_the_search(
    tmp_path: Path,
    space: SearchSpace,
    broken_level: Evaluate,
    uninterrupted: tuple[Path, Front],
    error: Callable[[], Exception],
    first: int,
) -> None:
    path = tmp_path / "study.db"
    evaluate = Failing(broken_level, range(first, 100), error)
    with (
        Study.create(path, Plan(space, **EIGHT)) as study,
        pytest.raises(MachineError, match=rf"^{FAILURES_IN_A_ROW} trials in a row "),
    ):
        search(evaluate, study)
    assert evaluate.calls == first - 1 + FAILURES_IN_A_ROW
    assert not any(trial.counts for trial in load_trials(path)[first - 1 :])
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted)


def test_a_resumed_search_that_is_interrupted_tries_them_again_later(
    tmp_path: Path, space: SearchSpace, broken_level: Evaluate, uninterrupted: tuple[Path, Front]
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, **EIGHT)) as study, pytest.raises(MachineError):
        search(Failing(broken_level, range(4, 9), MemoryError), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study, pytest.raises(KeyboardInterrupt):
        search(Interrupting(broken_level, at=2), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(broken_level, study)
    assert_same_search(path, front, *uninterrupted)


def test_one_candidate_without_memory_is_a_failed_one(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    """Other candidates had enough memory. Replay is exact, so the failure remains."""
    path, reference = tmp_path / "study.db", tmp_path / "reference.db"
    failing = Failing(evaluate, [2, 3, 5], out_of_memory)
    with Study.create(reference, Plan(space, **EIGHT)) as study:
        expected = search(failing, study)
    assert expected.failed == 3
    with Study.create(path, Plan(space, **EIGHT)) as study, pytest.raises(KeyboardInterrupt):
        search(Interrupting(Failing(evaluate, [2, 3, 5], out_of_memory), at=7), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(evaluate, study)
    assert_same_search(path, front, reference, expected)


def test_a_candidate_without_memory_again_is_a_failed_one(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, **EIGHT)) as study, pytest.raises(MachineError):
        search(Failing(evaluate, range(3, 9), MemoryError), study)
    for _ in range(2):  # the second time nothing is left to do
        with Study.resume(path, Plan(space, **EIGHT)) as study:
            front = search(Failing(evaluate, range(1, 4), MemoryError), study)
        assert (front.evaluated, front.failed) == (8, 3)
        trials = load_trials(path)
        assert len(trials) == 8 + FAILURES_IN_A_ROW
        assert sum(trial.counts for trial in trials) == 8


def test_failures_of_architectures_in_a_row_do_not_stop_the_search(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    failing = Failing(evaluate, range(2, 8), lambda: RuntimeError("shapes do not fit"))
    with Study.create(tmp_path / "study.db", Plan(space, **EIGHT)) as study:
        assert search(failing, study).failed == 6


def test_a_record_that_cannot_be_written_hides_no_error(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(architecture: Architecture) -> Evaluation:
        def readonly(*arguments: Any, **options: Any) -> sqlite3.Connection:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(sqlite3, "connect", readonly)
        study._storage.engine.dispose()
        raise KeyboardInterrupt

    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, **EIGHT)) as study, pytest.raises(KeyboardInterrupt):
        search(interrupted, study)
    monkeypatch.undo()
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        assert [trial.reason for trial in study.trials()] == ["interrupted"]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), KeyboardInterrupt()])
def test_a_result_that_is_recorded_but_not_read_back(
    tmp_path: Path,
    space: SearchSpace,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=2)) as study:
        calls, read = 0, study._storage.get_trial

        def unreadable_once(trial_id: int) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:  # the first call is that of `Study.start`
                raise error
            return read(trial_id)

        monkeypatch.setattr(study._storage, "get_trial", unreadable_once)
        with pytest.raises((KeyboardInterrupt, InputError)) as raised:
            search(evaluate, study)
    assert "finished" not in str(raised.value)
    (trial,) = load_trials(path)
    assert trial.counts
    assert trial.evaluation


@pytest.mark.parametrize(
    ("population", "errors", "message"),
    [
        (2, [MemoryError], "all 2 trials ran out of memory, the first: MemoryError; resume the "),
        (2, [MemoryError, OSError], "all 2 trials ran out of memory or ended with a system error,"),
        (4, [OSError, MemoryError], "all 4 trials ended with a system error or ran out of memory,"),
    ],
)
def test_a_machine_that_fails_in_the_whole_first_generation(
    tmp_path: Path,
    space: SearchSpace,
    evaluate: Evaluate,
    population: int,
    errors: Sequence[type[Exception]],
    message: str,
) -> None:
    calls = 0

    def broken(architecture: Architecture) -> Evaluation:
        nonlocal calls
        calls += 1
        raise errors[(calls - 1) % len(errors)]

    path = tmp_path / "study.db"
    plan = Plan(space, evaluations=8, population=population)
    with Study.create(path, plan) as study, pytest.raises(MachineError, match=f"^{message}"):
        search(broken, study)
    assert not any(trial.counts for trial in load_trials(path))
    with Study.resume(path, plan) as study:
        assert search(evaluate, study).failed == 0


def test_one_failure_in_the_words_of_one(tmp_path: Path, space: SearchSpace) -> None:
    plan = Plan(space, evaluations=1)
    path = tmp_path / "study.db"
    for error, kind, message in (
        (
            MemoryError,
            MachineError,
            "the only trial ran out of memory: MemoryError; .*to evaluate it again$",
        ),
        (MemoryError, SearchError, "the only candidate failed: MemoryError$"),
    ):

        def broken(architecture: Architecture) -> Evaluation:
            raise error  # noqa: B023

        make = Study.resume if path.exists() else Study.create
        with make(path, plan) as study, pytest.raises(kind, match=f"^{message}"):
            search(broken, study)


def test_a_device_that_fails_again_at_the_same_architecture(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    """The message names the earlier trial, and what helps: another device."""
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, **EIGHT)) as study, pytest.raises(MachineError):
        search(Failing(evaluate, [3], broken_device), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study, pytest.raises(KeyboardInterrupt):
        search(Interrupting(evaluate, at=1), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study, pytest.raises(MachineError) as raised:
        search(Failing(evaluate, [1], broken_device), study)
    assert str(raised.value) == (
        "trial 4: the device failed at the same architecture as in trial 2: RuntimeError: CUDA "
        "error: an illegal memory access was encountered More help; resume the search on another "
        "`device`"
    )
    with (
        Study.resume(path, Plan(space, **EIGHT)) as study,
        pytest.raises(MachineError, match=r"^trial 6: the device failed: Runtime"),
    ):
        search(Failing(evaluate, [2], broken_device), study)


def test_a_system_error_that_repeats_is_the_candidates_failure(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate
) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, **EIGHT)) as study, pytest.raises(MachineError):
        search(Failing(evaluate, range(3, 9), OSError), study)
    with Study.resume(path, Plan(space, **EIGHT)) as study:
        front = search(Failing(evaluate, [1, 2, 3], OSError), study)
    assert (front.evaluated, front.failed) == (8, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_callback_of_the_evaluator_that_fails_ends_the_search(
    tmp_path: Path, space: SearchSpace, evaluate: Evaluate, workers: int
) -> None:
    class StopError(Exception):
        pass

    def stopping(architecture: Architecture) -> Evaluation:
        raise CallbackError(StopError("enough"))

    path = tmp_path / "study.db"
    with (
        ThreadPoolExecutor(2) as pool,
        Study.create(path, Plan(space, **EIGHT)) as study,
        pytest.raises(StopError, match="enough"),
    ):
        search(stopping, study, executor=pool if workers else None, workers=workers or 1)
    assert {trial.reason for trial in load_trials(path)} == {"interrupted"}
