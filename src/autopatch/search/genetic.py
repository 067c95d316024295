"""pymoo's genetic algorithms over integer genomes, with an ask/tell interface; they propose no
architecture twice.

Sampling, crossover, mutation and the duplicate test are made for categorical genes; algorithms
differ in how they choose parents and survivors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pymoo.config import Config
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.problems.static import StaticProblem

from autopatch.search.constraints import Constraint
from autopatch.search.objectives import Objective
from autopatch.search.optimizer import Sampler, Score
from autopatch.search.space import Genome, SearchSpace

# Silences pymoo's hint about missing compiled modules: sorting a dozen individuals is fast without
# them.
Config.warnings["not_compiled"] = False

IntArray = npt.NDArray[np.int64]

# Loss and excess of a failed candidate: finite, so that it can be sorted, and worse than any other.
_PENALTY = 1e30


class _NewArchitectures(DuplicateElimination):  # type: ignore[misc]
    """Drops genomes that are not allowed, and genomes whose architecture was proposed before.

    pymoo repeats the mating until a generation is full, so genomes need no repair.
    """

    def __init__(self, space: SearchSpace, proposed: set[Genome]) -> None:
        super().__init__()
        self.space = space
        self.proposed = proposed

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        taken = {_canonical(self.space, x) for x in other.get("X")} if other is not None else set()
        for i, x in enumerate(pop.get("X")):
            genome = _canonical(self.space, x)
            is_duplicate[i] = genome is None or genome in taken or genome in self.proposed
            if other is None:
                taken.add(genome)
        return is_duplicate


class _ResetMutation(Mutation):  # type: ignore[misc]
    """Replaces the choice of a gene with one of its other choices, drawn uniformly."""

    def _do(
        self,
        problem: Any,
        X: IntArray,
        *args: Any,
        random_state: np.random.Generator,
        **kwargs: Any,
    ) -> IntArray:
        choices = problem.xu + 1
        mutated = random_state.random(X.shape) < 1.0 / problem.n_var
        shift = random_state.integers(1, np.maximum(choices, 2), size=X.shape)
        return np.where(mutated, (X + shift) % choices, X)


class GeneticOptimizer:
    """Ask/tell optimizer over the genomes of a search space. Subclasses set the algorithm.

    pymoo's population keeps inert genes, so that a patch size survives while its level is off.
    Proposed genomes are canonical. Candidates that meet all constraints come before those that do
    not, and of these, those with the smaller sum of excesses come first (Deb et al., "A fast and
    elitist multiobjective genetic algorithm: NSGA-II", 2002, section VI).

    Args:
        space: The space to search.
        seed: The same seed and the same scores give the same genomes, for one version of pymoo.
        population: Number of survivors, and of proposals in the first generation.
        offspring: Number of proposals in each later generation; `population` if None.
        initial: Genomes proposed first.
        objectives: Number of objectives.
        constraints: Number of constraints.

    Attributes:
        algorithm: Makes pymoo's algorithm from its operators, seed, and numbers of survivors and
            offspring.
    """

    algorithm: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        population: int,
        offspring: int | None = None,
        initial: Sequence[Genome] = (),
        objectives: int = 2,
        constraints: int = 0,
    ) -> None:
        self._space = space
        self._objectives = objectives
        self._constraints = constraints
        self._size = space.size()
        self._wanted = population
        self._offspring = offspring or population
        self._proposed: set[Genome] = set()
        # Differs from pymoo's own generator, which is seeded with the seed alone.
        self._random = np.random.default_rng((seed, 1))
        choices = [len(gene.choices) for gene in space.genes]
        self._upper = np.array(choices, dtype=np.int64) - 1
        self._problem = Problem(
            n_var=len(choices),
            n_obj=objectives,
            n_ieq_constr=constraints,
            xl=np.zeros_like(self._upper),
            xu=self._upper,
            vtype=int,
        )
        # Uniform crossover and reset mutation treat choices as labels. SBX and polynomial mutation
        # interpolate numbers: meaningless for on/off genes, and in short lists of choices the small
        # steps are rounded away.
        self._algorithm = self.algorithm(
            pop_size=population,
            n_offsprings=self._offspring,
            sampling=np.array(self._first(initial), dtype=np.int64),
            crossover=UniformCrossover(),
            mutation=_ResetMutation(),
            eliminate_duplicates=_NewArchitectures(space, self._proposed),
            seed=seed,
        )
        self._algorithm.setup(self._problem, termination=NoTermination())
        self._asked: Any = None

    def ask(self) -> list[Genome]:
        """The next generation: canonical genomes that have not been proposed before.

        At most `population` genomes in the first generation, or all of `initial` if that is more;
        later at most `offspring`.
        Empty if neither mating nor random sampling finds a new architecture.
        """
        self._asked = self._algorithm.ask()
        if self._asked is None:  # the mating found nothing new
            self._algorithm.termination.force_termination = False
            self._asked = Population.empty()
        genomes = [self._space.canonical(_genome(x)) for x in self._asked.get("X")]
        self._proposed.update(genomes)
        fresh = self._sample(self._wanted - len(genomes))
        self._wanted = self._offspring
        if fresh:
            filled = Population.new("X", np.array(fresh, dtype=np.int64))
            self._asked = Population.merge(self._asked, filled)
        return genomes + fresh

    def tell(self, scores: Sequence[Score | None]) -> None:
        """Takes the scores of the last proposed genomes, in order; None for a failed candidate."""
        failed = Score((_PENALTY,) * self._objectives, (_PENALTY,) * self._constraints)
        rows = [score or failed for score in scores]
        known = {"F": np.array([row.losses for row in rows], dtype=np.float64)}
        if self._constraints:
            known["G"] = np.array([row.excesses for row in rows], dtype=np.float64)
        known_problem = StaticProblem(self._problem, **known)
        Evaluator().eval(known_problem, self._asked)
        self._algorithm.tell(infills=self._asked)

    def _first(self, initial: Sequence[Genome]) -> list[Genome]:
        distinct = list(dict.fromkeys(self._space.canonical(genome) for genome in initial))
        self._proposed.update(distinct)
        first = distinct + self._sample(self._wanted - len(distinct))
        self._proposed.clear()  # pymoo's duplicate test runs on these as well
        return first

    def _sample(self, count: int) -> list[Genome]:
        """At most `count` new random genomes, marked as proposed."""
        genomes: list[Genome] = []
        while len(genomes) < count and len(self._proposed) < self._size:
            genome = self._space.sample_new(self._random, self._proposed)
            if genome is None:
                break
            self._proposed.add(genome)
            genomes.append(genome)
        return genomes


def _genome(x: Sequence[int] | IntArray) -> Genome:
    return tuple(int(value) for value in x)


def _canonical(space: SearchSpace, x: Sequence[int] | IntArray) -> Genome | None:
    genome = _genome(x)
    return space.canonical(genome) if space.is_allowed(genome) else None


def sampler_of(optimizer: type[GeneticOptimizer]) -> Sampler:
    """The sampler that makes a genetic optimizer."""

    def make(
        *,
        space: SearchSpace,
        seed: int,
        population: int,
        initial: Sequence[Genome],
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
    ) -> GeneticOptimizer:
        return optimizer(
            space,
            seed=seed,
            population=population,
            initial=initial,
            objectives=len(objectives),
            constraints=len(constraints),
        )

    return Sampler(library="pymoo", make=make)
