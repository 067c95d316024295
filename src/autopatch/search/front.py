"""The result of a search: its Pareto front, and the pick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autopatch.search.objectives import Objective
from autopatch.search.rules import Rule
from autopatch.search.trials import Trial


@dataclass(frozen=True)
class Front:
    """The result of a search.

    Attributes:
        trials: Non-dominated trials, in the order of `non_dominated`; at least one.
        objectives: Objectives of the search, in order.
        evaluated: Number of distinct architectures evaluated, including failed ones.
        failed: Number of evaluated architectures that failed.
        rule: The rule that picks a trial.
        note: Why the search ended early, or that no candidate meets the constraints, in one line;
            None if there is nothing to say.
    """

    trials: tuple[Trial, ...]
    objectives: tuple[Objective, ...]
    evaluated: int
    failed: int
    rule: Rule
    note: str | None = None

    @cached_property
    def pick(self) -> Trial:
        """The trial that the rule picks by the last objective."""
        return self.rule.choose(self.trials, self.objectives, self.objectives[-1].name)

    def pick_by(self, rule: Rule) -> Trial:
        """The trial that another rule picks, by the quality of that rule.

        Raises:
            InputError: The search did not measure that quality.
        """
        return rule.choose(self.trials, self.objectives, rule.quality)
