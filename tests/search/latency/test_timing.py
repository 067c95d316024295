"""Samples are taken alternately, and again where the machine was disturbed."""

from __future__ import annotations

import pytest
import torch

from autopatch.search.latency.timing import DeviceClock, Timer, as_in_use


class Machine:
    """A machine whose works take a known time; slow is how much slower it is in some periods."""

    def __init__(self, slow: dict[range, float] | None = None) -> None:
        self.time = 0.0
        self.samples = 0
        self.ran: list[str] = []
        self.slow = slow or {}

    def factor(self) -> float:
        return next((f for period, f in self.slow.items() if self.samples in period), 1.0)

    def now(self) -> float:
        return self.time

    def reference(self) -> float:
        return 0.01 * self.factor()

    def work(self, name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run() -> None:
            self.time += seconds * self.factor()
            self.samples += 1
            self.ran.append(name)

        return run


def test_works_are_timed_alternately_after_a_warm_up() -> None:
    machine = Machine()
    timer = Timer(machine, repeats=3)
    assert timer.medians([machine.work("a", 0.02), machine.work("b", 0.3)]) == [
        [pytest.approx(0.02)],
        [pytest.approx(0.3)],
    ]
    assert [sorted(machine.ran[i : i + 2]) for i in range(0, 8, 2)] == [["a", "b"]] * 4
    assert timer.disturbed == 0


def test_disturbed_samples_are_taken_again() -> None:
    machine = Machine({range(4, 8): 3.0})
    timer = Timer(machine, repeats=3)
    medians = timer.medians([machine.work("a", 0.2), machine.work("b", 0.3)])
    assert medians == [[pytest.approx(0.2)], [pytest.approx(0.3)]]
    assert len(machine.ran) > 8
    assert timer.disturbed == 0


def test_samples_of_a_machine_that_stays_disturbed_count_in_the_end() -> None:
    # The reference is slow before or after each sample.
    machine = Machine({range(number, number + 1): 2.0 for number in range(0, 100, 2)})
    timer = Timer(machine, repeats=4)
    medians = timer.medians([machine.work("a", 0.2)])
    assert medians == [[pytest.approx(0.2)]]  # the fastest
    assert timer.disturbed == 1
    assert len(machine.ran) == 1 + 3 * 4


def test_a_fast_run_of_the_reference_is_not_the_usual_one() -> None:
    machine = Machine({range(2): 0.5})
    timer = Timer(machine, repeats=8)
    assert timer.medians([machine.work("a", 0.2)]) == [[pytest.approx(0.2)]]
    assert timer.disturbed == 0
    assert len(machine.ran) < 1 + 2 * 8


def test_a_detector_is_timed_right_after_it_ran() -> None:
    machine = Machine()
    seconds = iter((0.5, 0.2))

    def run() -> None:
        machine.time += next(seconds)

    assert as_in_use(run, machine)() == [pytest.approx(0.2)]


def test_parts_of_a_work_have_medians_of_their_own() -> None:
    parts = iter([[9.0, 9.0], [1.0, 5.0], [2.0, 4.0], [3.0, 6.0]])
    timer = Timer(Machine(), repeats=3)
    assert timer.medians([lambda: next(parts)]) == [[2.0, 5.0]]


def test_progress_counts_samples() -> None:
    machine, told = Machine(), []
    Timer(machine, repeats=2).medians(
        [machine.work("a", 0.2), machine.work("b", 0.2)],
        lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_progress_ends_on_a_machine_that_stays_disturbed() -> None:
    slow = {range(number, number + 1): 2.0 for number in range(1, 100, 2)}
    machine, told = Machine(slow), []
    Timer(machine, repeats=2).medians(
        [machine.work("a", 0.2), machine.work("b", 0.2)],
        lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told)
    assert told[-1] == (4, 4)


def test_the_clock_of_a_device(device: torch.device) -> None:
    clock = DeviceClock(device)
    assert 0 < clock.reference() < 10
    assert clock.now() <= clock.now()
