"""The latency of the optional steps of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autopatch.detector import STEPS, FeatureTransform, Step
from autopatch.genes import Choice, Setting
from autopatch.search.latency.component import Case, Key, whole
from autopatch.search.latency.curves import entry, linear, nested, numbers
from autopatch.search.latency.levels import channels_of
from autopatch.search.latency.timing import Work
from autopatch.supernet import Supernet

if TYPE_CHECKING:
    from autopatch.search.latency.bench import Bench
    from autopatch.search.space import SearchSpace

_QUERIES = (64, 512)
_SEED = 0


@dataclass(frozen=True)
class StepValue:
    """An optional step of the head with a value that candidates may have.

    Attributes:
        name: Name of step and value in tables.
        step: The step.
        value: The value; of a step with a value for each level, that of all levels.
    """

    name: str
    step: Step
    value: Choice

    def setting(self, levels: int) -> Setting:
        """The setting of a head with so many levels."""
        return (self.value,) * levels if self.step.per_level else self.value

    def features(self, features: int, channels: tuple[int, ...]) -> FeatureTransform | None:
        """See `Step.features`."""
        return self.step.features(self.setting(len(channels)), features, channels)


class Steps:
    """The optional steps of the head.

    The time is linear in the number of patches and in the number of features. A step
    with values for each level is assumed to take as long as its slowest measured value.
    """

    def works(self, bench: Bench) -> list[tuple[Key, Work]]:
        """One for each value of a step, the sets of levels with the fewest and the most channels,
        and two numbers of patches."""
        works: list[tuple[Key, Work]] = []
        for step in step_values(bench.space):
            for name in bench.extreme_sets:
                levels = bench.supernet.levels(bench.level_sets[name])
                channels = tuple(level.channels for level in levels)
                for queries in _QUERIES:
                    work = self._work(bench, step, channels, queries)
                    if work is not None:
                        works.append(((step.name, str(sum(channels)), str(queries)), work))
        return works

    @staticmethod
    def _work(
        bench: Bench, step: StepValue, channels: tuple[int, ...], queries: int
    ) -> Work | None:
        generator = torch.Generator("cpu").manual_seed(_SEED)
        patches = torch.rand((queries, sum(channels)), generator=generator, device="cpu")
        patches = patches.to(bench.device)
        scores = torch.ones(queries, device=bench.device)
        maps = torch.ones((bench.batch, bench.side, bench.side), device=bench.device)
        transform = step.features(sum(channels), channels)
        features = sum(channels)
        if transform is not None:
            transform.to(bench.device).fit([patches])
            features = transform.out_features
        on_scores = step.step.scores(step.setting(len(channels)), features)
        on_maps = step.step.maps(step.setting(len(channels)), bench.side)
        if transform is None and on_scores is None and on_maps is None:
            return None  # the step does nothing to so few features
        transformed = patches if transform is None else transform(patches)
        if on_scores is not None:
            on_scores.to(bench.device).fit([transformed])
        if on_maps is not None:
            on_maps.to(bench.device)

        def run() -> None:
            rows = patches if transform is None else transform(patches)
            if on_scores is not None:
                on_scores(rows, scores)
            if on_maps is not None:
                on_maps(maps)

        return whole(run)

    def values(self, timed: Sequence[tuple[Key, Sequence[float]]]) -> dict[str, Any]:
        """Seconds by step with its value, features and patches."""
        return nested(timed)

    def require(self, values: Mapping[str, Any], supernet: Supernet, space: SearchSpace) -> None:
        """See `Component`."""
        for step in step_values(space):
            entry(values, step.name, "step")

    def seconds(self, values: Mapping[str, Any], case: Case) -> float:
        """See `Component`."""
        total = 0.0
        for name, value in case.architecture.head.active_steps():
            names = each_name(name, value)
            known = [one for one in names if one in values]
            if not known:
                entry(values, names[0], "step")
            total += max(self._one(values[one], case) for one in known)
        return total

    @staticmethod
    def _one(measured: Mapping[str, Any], case: Case) -> float:
        curve = {
            int(features): linear(numbers(of_queries), case.queries)
            for features, of_queries in measured.items()
        }
        return linear(curve, channels_of(case.levels))


COMPONENT = Steps()


def step_values(space: SearchSpace) -> list[StepValue]:
    """The steps of a space, with each value that is not off."""
    return [
        StepValue(_name(name, value), STEPS[name], value)
        for name in STEPS
        for value in dict.fromkeys(space.choices("head", name))
        if value != STEPS[name].off
    ]


def each_name(name: str, value: Setting) -> list[str]:
    """The names in tables of a step with its value; of a step with values for each level, one for
    each."""
    values = value if isinstance(value, tuple) else (value,)
    return [_name(name, one) for one in values]


def _name(name: str, value: object) -> str:
    return f"{name} {value}"
