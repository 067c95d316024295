"""Times work of many kinds alternately, and notices when something else disturbs the machine."""

from __future__ import annotations

import statistics
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import torch

Work = Callable[[], Sequence[float] | None]
"""Something to time. It returns the seconds of its parts, or None to be timed as a whole."""

_BATCH_SECONDS = 0.1  # time between two runs of the reference
_REFERENCE_SECONDS = 0.004
_TOLERANCE = 0.12  # by which the reference may be slower than usual
_TRIES = 3  # samples of a work, per accepted one, before disturbed samples are accepted


class Clock(Protocol):
    """The clock of a measurement."""

    def now(self) -> float:
        """Seconds, read after the device has finished its work."""
        ...

    def reference(self) -> float:
        """Runs a fixed piece of work; returns its seconds."""
        ...


class DeviceClock:
    """The clock of a device.

    With a single CPU thread, it is the thread's own clock, which stands still while another process
    has the processor. Otherwise it is the clock on the wall.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._read = time.thread_time if alone else time.perf_counter
        side = 256 if device.type == "cpu" else 2048
        generator = torch.Generator("cpu").manual_seed(0)
        self._factors = torch.randn(side, side, generator=generator, device="cpu").to(device)
        self._times = 1
        while self._times < 1024 and self.reference() < _REFERENCE_SECONDS:
            self._times *= 2

    def now(self) -> float:
        """See `Clock`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._read()

    def reference(self) -> float:
        """See `Clock`."""
        started = self.now()
        product = self._factors
        for _ in range(self._times):
            product = torch.mm(self._factors, product).clamp_(-1, 1)
        return self.now() - started


def as_in_use(run: Callable[[], object], clock: Clock) -> Work:
    """A work that is timed right after it ran before, as that of a detector on a line."""

    def work() -> list[float]:
        run()
        started = clock.now()
        run()
        return [clock.now() - started]

    return work


@dataclass(frozen=True)
class _Sample:
    """The seconds of each part of a work, and the slower of the references beside it."""

    parts: Sequence[float]
    reference: float


@dataclass
class Timer:
    """Times works alternately: one sample of each in random order, then the next of each.

    Samples are taken in batches of about a tenth of a second, between two runs of a reference. If
    one of them is more than 12 % slower than the lower quartile of all, something else used the
    machine: the samples between them do not count and are taken again, up to three times as many as
    needed. After that the fastest of them count as well, and `disturbed` tells the share. (The
    fastest run is no measure: a processor may run faster for a moment. A machine that is disturbed
    more than three quarters of the time is not noticed.)

    Attributes:
        clock: The clock.
        repeats: Samples of each work.
        accepted: Number of samples that counted.
        doubtful: How many of them were disturbed.
    """

    clock: Clock
    repeats: int = 4
    accepted: int = 0
    doubtful: int = 0
    _references: list[float] = field(default_factory=list, repr=False)

    @property
    def disturbed(self) -> float:
        """Share of samples that count although the machine was disturbed."""
        return self.doubtful / self.accepted if self.accepted else 0.0

    def medians(
        self, works: Sequence[Work], told: Callable[[int, int], None] | None = None
    ) -> list[list[float]]:
        """Runs each work once to warm up, then times it.

        Args:
            works: What to time.
            told: Called after every batch with the number of samples that are done, and their
                total. Disturbed samples are done by as much as they bring a work nearer to its end.

        Returns:
            For each work the median seconds of each of its parts; of a work without parts, of the
            whole.
        """
        for work in works:
            work()
        samples: list[list[_Sample]] = [[] for _ in works]
        before = self._reference()
        pending = list(range(len(works)))
        random = Random(0)
        done = 0
        while pending:
            random.shuffle(pending)  # so that a disturbance meets other works each time
            batch: list[tuple[int, Sequence[float]]] = []
            began = started = self.clock.now()
            for position, index in enumerate(pending):
                parts = works[index]()
                ended = self.clock.now()
                batch.append((index, [ended - started] if parts is None else parts))
                if ended - began >= _BATCH_SECONDS or position == len(pending) - 1:
                    after = self._reference()
                    for number, parts in batch:
                        samples[number].append(_Sample(parts, max(before, after)))
                    before, batch = after, []
                    if told is not None:
                        done = max(done, sum(map(self._done, samples)))  # "usual" may change
                        told(done, len(works) * self.repeats)
                    began = self.clock.now()
                started = self.clock.now()
            pending = [index for index in pending if self._done(samples[index]) < self.repeats]
        return [self._median(each) for each in samples]

    def _done(self, samples: Sequence[_Sample]) -> int:
        """How many of the repeats of a work are done: all of them, if no more samples are taken."""
        quiet = sum(map(self._is_quiet, samples))
        return min(max(quiet, len(samples) // _TRIES), self.repeats)

    def _is_quiet(self, sample: _Sample) -> bool:
        usual = self._references[len(self._references) // 4]
        return sample.reference <= usual * (1 + _TOLERANCE)

    def _reference(self) -> float:
        seconds = self.clock.reference()
        insort(self._references, seconds)
        return seconds

    def _median(self, samples: Sequence[_Sample]) -> list[float]:
        # The quiet ones first, then the fastest.
        ordered = sorted(samples, key=lambda one: (not self._is_quiet(one), sum(one.parts)))
        quiet = sum(map(self._is_quiet, samples))
        counted = ordered[: max(quiet, self.repeats)]
        self.accepted += len(counted)
        self.doubtful += len(counted) - quiet
        return [statistics.median(part) for part in zip(*(o.parts for o in counted), strict=True)]
