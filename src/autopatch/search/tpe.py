"""The optimizer of the published AutoPatch: Optuna's TPE, with an ask/tell interface.

Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022. One proposal at a time is
drawn jointly over all genes, including inert ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from autopatch.genes import Gene
from autopatch.search.constraints import Constraint
from autopatch.search.objectives import MAXIMIZE, MINIMIZE, Objective
from autopatch.search.optimizer import Sampler, Score
from autopatch.search.space import Genome, SearchSpace
from autopatch.search.storage import quiet

# The search ends after this many successive proposals without a new architecture.
_PROPOSALS = 500
_EXCESSES = "excesses"


class TPE:
    """Ask/tell optimizer over the genomes of a search space.

    Sampler and arguments are the same as in the published search, which used Optuna 3.1. The
    proposals are identical until ten trials have a result. After that, versions up to Optuna 4.9
    draw them from the same estimators. Optuna 5 differs in three ways: it weights all good trials
    equally instead of by hypervolume; it counts a tenth of all trials as good, without the earlier
    limit of 25; and it sets the kernel widths of numbers by the distances between trials.

    Args:
        space: The space to search.
        seed: The same seed and the same scores give the same genomes, for one version of Optuna.
        initial: Genomes proposed first. The published search has none.
        directions: "minimize" or "maximize" for each objective.
        constrained: Whether scores have excesses.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        initial: Sequence[Genome] = (),
        directions: Sequence[str] = (MINIMIZE, MAXIMIZE),
        constrained: bool = False,
    ) -> None:
        self._space = space
        self._directions = tuple(directions)
        self._size = space.size()
        self._distributions = {gene.name: _distribution(gene) for gene in space.genes}
        self._results: dict[Genome, Score | None] = {}
        self._asked: tuple[Trial, Genome] | None = None
        self._random = np.random.default_rng(seed)
        with quiet():
            # As in the published search, maximized objectives stay as they are. As losses they
            # would change the reference point of the hypervolume that ranks trials of equal rank.
            self._study = optuna.create_study(
                sampler=TPESampler(
                    seed=seed,
                    multivariate=True,
                    constant_liar=True,
                    **_constraints() if constrained else {},
                ),
                directions=[StudyDirection[direction.upper()] for direction in directions],
            )
            for genome in initial:
                self._study.enqueue_trial(space.parameters(genome))

    def ask(self) -> list[Genome]:
        """One canonical genome that has not been proposed before.

        If the sampler repeats a genome, it receives the known result; if a genome has no level or
        is not allowed, it receives a failure. Then it proposes again, as in the published search.
        The list is empty if all architectures were proposed, or if many successive proposals were
        not new. If the space allows some architectures only, a random one takes the place of the
        latter.
        """
        for _ in range(_PROPOSALS if len(self._results) < self._size else 0):
            trial = self._study.ask(self._distributions)
            genome = self._genome(trial)
            if genome is not None and genome not in self._results:
                self._asked = trial, genome
                return [genome]
            self._finish(trial, None if genome is None else self._results[genome])
        if self._space.allows is None or len(self._results) == self._size:
            return []
        genome = self._space.sample_new(self._random, self._results)
        if genome is None:
            return []
        self._study.enqueue_trial(self._space.parameters(genome))
        self._asked = self._study.ask(self._distributions), genome
        return [genome]

    def tell(self, scores: Sequence[Score | None]) -> None:
        """Takes the score of the last proposed genome; None for a failed candidate."""
        assert self._asked is not None
        trial, genome = self._asked
        (self._results[genome],) = scores
        self._finish(trial, self._results[genome])

    def _genome(self, trial: Trial) -> Genome | None:
        genome = tuple(gene.choices.index(trial.params[gene.name]) for gene in self._space.genes)
        return self._space.canonical(genome) if self._space.is_allowed(genome) else None

    def _finish(self, trial: Trial, score: Score | None) -> None:
        if score is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        values = [
            1.0 - loss if direction == MAXIMIZE else loss
            for loss, direction in zip(score.losses, self._directions, strict=True)
        ]
        trial.set_user_attr(_EXCESSES, list(score.excesses))
        if hasattr(trial, "set_constraint"):
            for number, excess in enumerate(score.excesses):
                trial.set_constraint(str(number), excess)
        self._study.tell(trial, values)


def _constraints() -> dict[str, Any]:
    """Arguments of the sampler with which Optuna below 5 learns about constraints; later versions
    have `Trial.set_constraint`."""
    return {} if hasattr(Trial, "set_constraint") else {"constraints_func": _excesses}


def _excesses(trial: FrozenTrial) -> list[float]:
    """The excesses of a trial, as Optuna asks for them."""
    found: list[float] = trial.user_attrs[_EXCESSES]
    return found


def _distribution(gene: Gene) -> BaseDistribution:
    """A numeric range for evenly spaced, ascending integers; categories for all other choices."""
    numbers = [choice for choice in gene.choices if type(choice) is int]
    steps = {after - before for before, after in pairwise(numbers)}
    if len(numbers) == len(gene.choices) and len(steps) == 1 and min(steps) > 0:
        return IntDistribution(numbers[0], numbers[-1], step=steps.pop())
    return CategoricalDistribution(gene.choices)


def _make(
    *,
    space: SearchSpace,
    seed: int,
    population: int,  # unused: TPE proposes one at a time
    initial: Sequence[Genome],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> TPE:
    directions = [objective.direction for objective in objectives]
    return TPE(
        space, seed=seed, initial=initial, directions=directions, constrained=bool(constraints)
    )


SAMPLER = Sampler(library="optuna", make=_make)
