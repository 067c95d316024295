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


@dataclass
class Timer:
    """Times works alternately: one sample of each in random order, then the next of each.

    Samples are taken in batches of about a tenth of a second, between two runs of a reference. If
    one of them is more than 12 % slower than the lower quartile of all so far, something else used
    the machine: the samples between them are dropped and taken again, up to three times as many as
    needed. After that they count as well, and `disturbed` tells the share. (The fastest run is no
    measure: a processor may run faster for a moment.)

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
            self._reference()
        samples: list[list[Sequence[float]]] = [[] for _ in works]
        spoiled: list[list[Sequence[float]]] = [[] for _ in works]
        before = self._reference()
        pending = list(range(len(works)))
        random = Random(0)
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
                    quiet = max(before, after) <= self._usual * (1 + _TOLERANCE)
                    for number, parts in batch:
                        (samples if quiet else spoiled)[number].append(parts)
                    before, batch = after, []
                    if told is not None:
                        done = map(self._done, samples, spoiled)
                        told(sum(done), len(works) * self.repeats)
                    began = self.clock.now()
                started = self.clock.now()
            pending = [
                index
                for index in pending
                if self._done(samples[index], spoiled[index]) < self.repeats
            ]
        return [self._median(*each) for each in zip(samples, spoiled, strict=True)]

    def _done(self, samples: Sequence[object], spoiled: Sequence[object]) -> int:
        """How many of the repeats of a work are done: all of them, if no more samples are taken."""
        tries = (len(samples) + len(spoiled)) // _TRIES
        return min(max(len(samples), tries), self.repeats)

    def _reference(self) -> float:
        seconds = self.clock.reference()
        insort(self._references, seconds)
        return seconds

    @property
    def _usual(self) -> float:
        return self._references[len(self._references) // 4]

    def _median(
        self, samples: Sequence[Sequence[float]], spoiled: Sequence[Sequence[float]]
    ) -> list[float]:
        missing = max(self.repeats - len(samples), 0)
        self.accepted += len(samples) + missing
        self.doubtful += missing
        counted = [*samples, *sorted(spoiled, key=sum)[:missing]]
        return [statistics.median(part) for part in zip(*counted, strict=True)]
