"""The optimizer of the published AutoPatch: Optuna's TPE, by ask and tell.

Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022; one proposal at a time, over
all genes at once, those that do not count included.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from autopatch.genes import Gene
from autopatch.search.objectives import MAXIMIZE, MINIMIZE, Objective
from autopatch.search.optimizer import Genome, Losses, Sampler
from autopatch.search.space import SearchSpace
from autopatch.search.storage import quiet

# Proposals in a row without a new architecture before the search is taken for finished.
_PROPOSALS = 500


class TPE:
    """Ask/tell optimizer over the genomes of a search space.

    The sampler and its arguments are those published, with Optuna 3.1, and the proposals are the
    same until ten trials have a result. Up to Optuna 4.9 the estimators behind those after them are
    the same as well. Optuna 5 weighs all good trials alike instead of by hypervolume, counts a
    tenth of all trials as good where it was 25 at most, and sets widths over numbers by the
    distances between trials.

    Args:
        space: The space to search.
        seed: The same seed and the same told losses give the same genomes (for one version of
            Optuna).
        initial: Genomes proposed first. The published search has none.
        directions: "minimize" or "maximize" for each objective.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        initial: Sequence[Genome] = (),
        directions: Sequence[str] = (MINIMIZE, MAXIMIZE),
    ) -> None:
        self._space = space
        self._directions = tuple(directions)
        self._size = space.size()
        self._distributions = {gene.name: _distribution(gene) for gene in space.genes}
        self._results: dict[Genome, Losses | None] = {}
        self._asked: tuple[Trial, Genome] | None = None
        with quiet():
            # What is maximized stays so, as rwAP in the published search: between trials of equal
            # rank hypervolumes decide, and their reference point is not that of 1 - rwAP.
            self._study = optuna.create_study(
                sampler=TPESampler(seed=seed, multivariate=True, constant_liar=True),
                directions=[StudyDirection[direction.upper()] for direction in directions],
            )
            for genome in initial:
                self._study.enqueue_trial(space.parameters(genome))

    def ask(self) -> list[Genome]:
        """One canonical genome, never asked before.

        What the sampler proposes again is told its result again, and what has no level fails, as
        in the published search; the next proposal follows at once. Empty when all architectures
        were asked, or when the sampler proposes nothing new many times in a row.
        """
        for _ in range(_PROPOSALS if len(self._results) < self._size else 0):
            trial = self._study.ask(self._distributions)
            genome = self._genome(trial)
            if genome is not None and genome not in self._results:
                self._asked = trial, genome
                return [genome]
            self._finish(trial, None if genome is None else self._results[genome])
        return []

    def tell(self, losses: Sequence[Losses | None]) -> None:
        """The losses of the genome last asked; None for a failed one."""
        assert self._asked is not None
        trial, genome = self._asked
        (self._results[genome],) = losses
        self._finish(trial, self._results[genome])

    def _genome(self, trial: Trial) -> Genome | None:
        genome = tuple(gene.choices.index(trial.params[gene.name]) for gene in self._space.genes)
        return self._space.canonical(genome) if self._space.is_valid(genome) else None

    def _finish(self, trial: Trial, losses: Losses | None) -> None:
        if losses is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        values = [
            1.0 - loss if direction == MAXIMIZE else loss
            for loss, direction in zip(losses, self._directions, strict=True)
        ]
        self._study.tell(trial, values)


def _distribution(gene: Gene) -> BaseDistribution:
    """Evenly spaced, ascending integers are a range of numbers, all else are labels."""
    numbers = [choice for choice in gene.choices if type(choice) is int]
    steps = {after - before for before, after in pairwise(numbers)}
    if len(numbers) == len(gene.choices) and len(steps) == 1 and min(steps) > 0:
        return IntDistribution(numbers[0], numbers[-1], step=steps.pop())
    return CategoricalDistribution(gene.choices)


def _make(
    *,
    space: SearchSpace,
    seed: int,
    population: int,  # it proposes one at a time
    initial: Sequence[Genome],
    objectives: Sequence[Objective],
) -> TPE:
    directions = [objective.direction for objective in objectives]
    return TPE(space, seed=seed, initial=initial, directions=directions)


SAMPLER = Sampler(library="optuna", make=_make)
