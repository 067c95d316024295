"""The optimizer of the published AutoPatch: Optuna's TPE, by ask and tell.

Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022. It makes one proposal at a
time, jointly over all genes, inert ones included.
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

# Proposals in a row without a new architecture after which the search is finished.
_PROPOSALS = 500


class TPE:
    """Ask/tell optimizer over the genomes of a search space.

    The sampler and its arguments are those of the published search, which used Optuna 3.1. The
    proposals are the same until ten trials have a result. After that they are drawn from the same
    estimators up to Optuna 4.9. Optuna 5 differs in three ways: it weights all good trials equally
    instead of by hypervolume; it counts a tenth of all trials as good, formerly 25 at most; and it
    sets the kernel widths of numbers by the distances between trials.

    Args:
        space: The space to search.
        seed: The same seed and the same losses give the same genomes, for one version of Optuna.
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
            # Maximized objectives are not turned into losses, as in the published search. Trials
            # of equal rank are compared by hypervolume, whose reference point would differ.
            self._study = optuna.create_study(
                sampler=TPESampler(seed=seed, multivariate=True, constant_liar=True),
                directions=[StudyDirection[direction.upper()] for direction in directions],
            )
            for genome in initial:
                self._study.enqueue_trial(space.parameters(genome))

    def ask(self) -> list[Genome]:
        """One canonical genome that was not proposed before.

        As in the published search, the sampler is told the known result of a genome that it
        proposes again, and a failure for a genome without a level; then it proposes the next one.
        Empty if all architectures were proposed, or if the sampler proposes nothing new many times
        in a row.
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
        """Takes the losses of the genome last proposed; None for a failed one."""
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
    """A range of numbers for evenly spaced, ascending integers; labels for all other choices."""
    numbers = [choice for choice in gene.choices if type(choice) is int]
    steps = {after - before for before, after in pairwise(numbers)}
    if len(numbers) == len(gene.choices) and len(steps) == 1 and min(steps) > 0:
        return IntDistribution(numbers[0], numbers[-1], step=steps.pop())
    return CategoricalDistribution(gene.choices)


def _make(
    *,
    space: SearchSpace,
    seed: int,
    population: int,  # unused, as TPE proposes one at a time
    initial: Sequence[Genome],
    objectives: Sequence[Objective],
) -> TPE:
    directions = [objective.direction for objective in objectives]
    return TPE(space, seed=seed, initial=initial, directions=directions)


SAMPLER = Sampler(library="optuna", make=_make)
