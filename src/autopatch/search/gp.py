"""Bayesian optimization with Gaussian processes over integer genomes, with an ask/tell interface.

Each loss has a Gaussian process. The next genome is the one with the largest expected improvement
of the hypervolume (Emmerich et al., "Single- and multiobjective evolutionary optimization assisted
by Gaussian random field metamodels", 2006), among random genomes and variants of the best ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import log_ndtr

from autopatch.genes import Choice
from autopatch.search.constraints import Constraint
from autopatch.search.objectives import Objective
from autopatch.search.optimizer import Sampler, Score
from autopatch.search.space import Genome, SearchSpace

Array = npt.NDArray[np.float64]

_RANDOM = 10  # evaluations before the first model, at least
_POOL = 200  # random genomes, and as many variants of the best ones, to choose from
_TRIES = 2  # draws for each of them
_DIRECTIONS = 64
_SAMPLES = 32
_SWEPT = 12  # parameters of a model that are reconsidered at a time
_MARGIN = 0.1  # of the reference point, for costs
_LEAST = 1e-9  # weight of the deviations in the improvement
_DIGITS = 6  # of the acquisition function; more would let rounding decide
_FARTHEST = 8.0  # deviations between a mean and 0 that count, so that an improvement still counts

# Choices for the parameters of a model.
_WEIGHTS = np.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
_NOISES = np.array([1e-6, 1e-4, 1e-3, 1e-2, 1e-1])
_USUAL_WEIGHT, _WEIGHT_SPREAD = np.log(0.3), 1.5


class GaussianProcess:
    """A model of one loss: a Gaussian process whose covariance is exp(-sum_g w_g d_g), with the
    distances d_g of two genomes in each gene g and inverse length scales w_g.

    The inverse length scales and the noise maximize the posterior density. Each `fit` improves some
    of them by a step on a grid, so that rounding hardly ever changes them.

    Args:
        genes: Number of genes.
    """

    def __init__(self, genes: int) -> None:
        # Indices into the choices; the last is the noise.
        self._parameters = np.array([2] * genes + [1])

    def fit(self, distances: Array, values: Array, swept: Sequence[int]) -> None:
        """Fits the model to data.

        Args:
            distances: Distances of all pairs of genomes in each gene, `[G, n, n]`.
            values: The losses, `[n]`.
            swept: Parameters to improve: genes, or G for the noise.
        """
        self._mean = float(values.mean())
        self._scale = float(values.std()) or 1.0
        standardized = (values - self._mean) / self._scale
        weights = _WEIGHTS[self._parameters[:-1]]
        total = np.tensordot(weights, distances, axes=1)
        best = self._posterior(total, self._parameters, standardized)
        for swept_one in swept:
            choices = _NOISES if swept_one == len(distances) else _WEIGHTS
            for step in (-1, 1):
                tried = self._parameters.copy()
                tried[swept_one] += step
                if not 0 <= tried[swept_one] < len(choices):
                    continue
                changed = total
                if choices is _WEIGHTS:
                    more = _WEIGHTS[tried[swept_one]] - _WEIGHTS[self._parameters[swept_one]]
                    changed = total + more * distances[swept_one]
                found = self._posterior(changed, tried, standardized)
                if found > best:
                    best, total, self._parameters = found, changed, tried
                    break
        self._factor = self._covariance(total, self._parameters)
        self._solved = cho_solve((self._factor, True), standardized)
        self._variance = max(float(standardized @ self._solved) / len(values), 1e-12)

    def predict(self, distances: Array) -> tuple[Array, Array]:
        """Means and standard deviations at other genomes, `[N]` each.

        Args:
            distances: Distances of the data to the genomes in each gene, `[G, n, N]`.
        """
        weights = _WEIGHTS[self._parameters[:-1]]
        covariance = np.exp(-np.tensordot(weights, distances, axes=1))
        mean = covariance.T @ self._solved
        explained = solve_triangular(self._factor, covariance, lower=True)
        variance = self._variance * np.maximum(1 - (explained**2).sum(axis=0), 1e-12)
        return self._mean + self._scale * mean, self._scale * np.sqrt(variance)

    def _posterior(self, total: Array, parameters: npt.NDArray[np.int64], values: Array) -> float:
        """Log posterior density of the parameters, up to a constant, with the variance that
        maximizes it."""
        factor = self._covariance(total, parameters)
        variance = float(values @ cho_solve((factor, True), values)) / len(values)
        likelihood = -0.5 * len(values) * np.log(max(variance, 1e-12))
        likelihood -= np.log(np.diag(factor)).sum()
        away = (np.log(_WEIGHTS[parameters[:-1]]) - _USUAL_WEIGHT) / _WEIGHT_SPREAD
        return float(likelihood - 0.5 * (away**2).sum())

    @staticmethod
    def _covariance(total: Array, parameters: npt.NDArray[np.int64]) -> Array:
        """The Cholesky factor of the covariance of the data, relative to the variance."""
        covariance = np.exp(-total)
        covariance.flat[:: len(total) + 1] += _NOISES[parameters[-1]]
        return np.asarray(cholesky(covariance, lower=True, check_finite=False))


class GP:
    """Ask/tell optimizer over the genomes of a search space; proposes one at a time.

    Expected improvements are multiplied by the probabilities that a candidate meets all constraints
    and does not fail.

    Args:
        space: The space to search.
        seed: The same seed and the same scores give the same genomes.
        initial: Genomes proposed first.
        costs: For each loss, whether it is a cost. The logarithm of a cost counts, if all are
            above 0, and the highest known cost is no reason to refuse a good candidate. Of other
            losses, the worst known value is worth nothing, however low the cost.

    Attributes:
        margins: How much worse the reference point is than the worst known losses, as shares of
            their ranges, `[m]`.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        initial: Sequence[Genome] = (),
        costs: Sequence[bool] = (True, False),
    ) -> None:
        self._space = space
        self._size = space.size()
        self._random = np.random.default_rng(seed)
        self._initial = list(dict.fromkeys(space.canonical(genome) for genome in initial))
        self._costs = np.array(costs)
        self.margins = np.where(self._costs, _MARGIN, 0.0)
        self._genes = [place for place, gene in enumerate(space.genes) if len(gene.choices) > 1]
        ranks = [_ranks(space.genes[place].choices) for place in self._genes]
        self._ordered = np.array([of_gene is not None for of_gene in ranks])
        self._codes: list[Sequence[float]] = [
            of_gene or range(len(space.genes[place].choices))
            for place, of_gene in zip(self._genes, ranks, strict=True)
        ]
        self._genomes: list[Genome] = []
        self._scores: list[Score | None] = []
        self._models: dict[tuple[str, int], GaussianProcess] = {}

    def ask(self) -> list[Genome]:
        """One canonical genome that has not been proposed before; none if there is no other."""
        proposed = set(self._genomes)
        genome: Genome | None
        if len(self._genomes) < len(self._initial):
            genome = self._initial[len(self._genomes)]
        elif sum(score is not None for score in self._scores) < _RANDOM:
            genome = self._new(proposed)
        else:
            genome = self._best(proposed) or self._new(proposed)
        if genome is None:
            return []
        self._genomes.append(genome)
        return [genome]

    def tell(self, scores: Sequence[Score | None]) -> None:
        """Takes the score of the last proposed genome; None for a failed candidate."""
        self._scores += scores

    def _best(self, proposed: set[Genome]) -> Genome | None:
        """The new genome with the largest expected improvement; None if no new one was drawn."""
        finished = np.array([score is not None for score in self._scores])
        losses, excesses = self._known()
        feasible = np.asarray((excesses <= 0).all(axis=1))
        evaluated = [self._genomes[place] for place in np.flatnonzero(finished)]
        violations = np.maximum(excesses, 0.0).sum(axis=1)
        pool = self._pool(_parents(evaluated, losses, violations), proposed)
        if not pool:
            return None
        known = self._encoded(self._genomes)
        among = self._distances(known, known)
        to_pool = self._distances(known, self._encoded(pool))

        def predicted(name: str, targets: Array, rows: npt.NDArray[np.bool_]) -> tuple[Array, ...]:
            """Means and deviations `[N, targets]`."""
            among_rows, rows_to_pool = among[:, rows][:, :, rows], to_pool[:, rows]
            found = []
            for number, values in enumerate(targets.T):
                model = self._models.setdefault((name, number), GaussianProcess(len(self._genes)))
                swept = self._random.permutation(len(self._genes) + 1)[:_SWEPT].tolist()
                model.fit(among_rows, values, swept)
                found.append(model.predict(rows_to_pool))
            return tuple(np.stack(each, axis=1) for each in zip(*found, strict=True))

        means, deviations = predicted("losses", losses, finished)
        gain = expected_improvement(means, deviations, losses, losses[feasible], self.margins)
        # Where nothing improves, the least known genome is next.
        ranges = np.ptp(losses, axis=0)
        unknown = (deviations / np.where(ranges > 0, ranges, 1.0)).sum(axis=1)
        acquisition = np.log(gain + _LEAST * unknown)
        if excesses.size:
            acquisition += _below_0(*predicted("excesses", excesses, finished))
        if not finished.all():
            failed = np.where(finished, -1.0, 1.0)[:, None]
            acquisition += _below_0(*predicted("failed", failed, np.ones_like(finished)))
        return pool[int(acquisition.round(_DIGITS).argmax())]

    def _known(self) -> tuple[Array, Array]:
        """Losses `[n, objectives]` and excesses `[n, constraints]` of all genomes with a score, as
        they are modeled: large excesses do not count in full."""
        scores = [score for score in self._scores if score is not None]
        losses = np.array([score.losses for score in scores], dtype=np.float64)
        for place, is_cost in enumerate(self._costs):
            if is_cost and (losses[:, place] > 0).all():
                losses[:, place] = np.log(losses[:, place])
        excesses = np.array([score.excesses for score in scores], dtype=np.float64)
        return losses, np.arcsinh(excesses).reshape(len(scores), -1)

    def _pool(self, parents: Sequence[Genome], proposed: set[Genome]) -> list[Genome]:
        """New genomes: random ones, and children of the best ones."""
        pool: dict[Genome, None] = {}
        for draw in (self._space.sample, lambda random: self._child(parents, random)):
            wanted = len(pool) + _POOL
            for _ in range(_TRIES * _POOL):
                genome = draw(self._random)
                if genome is None or genome in proposed or genome in pool:
                    continue
                if self._space.is_allowed(genome):
                    pool[genome] = None
                    if len(pool) == wanted:
                        break
        return list(pool)

    def _child(self, parents: Sequence[Genome], random: np.random.Generator) -> Genome | None:
        """A mixture of two of the best genomes with one or two other choices; None if invalid."""
        mother, father = (parents[index] for index in random.integers(len(parents), size=2))
        from_mother = random.random(len(mother)) < 0.5
        child = [m if first else f for m, f, first in zip(mother, father, from_mother, strict=True)]
        for place in random.choice(self._genes, size=random.integers(1, 3)):
            count = len(self._space.genes[place].choices)
            child[place] = int((child[place] + random.integers(1, count)) % count)
        return self._space.canonical(child) if self._space.is_valid(child) else None

    def _new(self, proposed: set[Genome]) -> Genome | None:
        """A random new genome; None if there seems to be none."""
        if len(proposed) == self._size:
            return None
        return self._space.sample_new(self._random, proposed)

    def _encoded(self, genomes: Sequence[Genome]) -> Array:
        """Codes of the genes that have several choices, `[n, G]`; -1 for inert genes."""
        rows = []
        for genome in genomes:
            active = self._space.active(genome)
            rows.append(
                [
                    codes[genome[place]] if active[place] else -1.0
                    for place, codes in zip(self._genes, self._codes, strict=True)
                ]
            )
        return np.array(rows, dtype=np.float64)

    def _distances(self, rows: Array, columns: Array) -> Array:
        """Distances in each gene, `[G, n, N]`: from 0 to 1 by rank if it is ordered (see `_ranks`),
        else 0 or 1; 1 if the gene is inert in one of both, and 0 if in both."""
        one, other = rows.T[:, :, None], columns.T[:, None, :]
        by_rank = np.abs(one - other)
        unequal = (one != other).astype(np.float64)
        differ = (one < 0) != (other < 0)
        found: Array = np.where(self._ordered[:, None, None] & ~differ, by_rank, unequal)
        return found


def expected_improvement(
    means: Array, deviations: Array, known: Array, front: Array, margins: Array
) -> Array:
    """By how much a new point is expected to improve the hypervolume, up to a constant factor, with
    each loss divided by the range of the known ones.

    The hypervolume is a mean over directions (Golovin & Zhang, "Random hypervolume scalarizations
    for provable multi-objective black box optimization", 2020), and the expectation a mean over
    samples that are the same for all points. The reference point is worse than the worst known
    losses by a margin.

    Args:
        means: Means of the losses of new points, `[N, m]`.
        deviations: Their standard deviations, `[N, m]`.
        known: All known losses, `[n, m]`; they set the range.
        front: Losses that are improved on, `[f, m]`; may be empty.
        margins: Margin of each loss, as a share of its range, `[m]`.

    Returns:
        `[N]`.
    """
    count = means.shape[1]
    best = known.min(axis=0)
    span = np.maximum(known.max(axis=0) - best, 1e-12)
    generator = np.random.default_rng(0)
    if count == 2:
        angles = (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS * np.pi / 2
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        directions = np.abs(generator.standard_normal((_DIRECTIONS, count)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def lengths(losses: Array) -> Array:
        """How far each direction reaches from the reference point within what losses `[..., m]`
        dominate, `[..., directions]`."""
        better = np.maximum(1.0 + margins - (losses - best) / span, 0.0)
        reach = np.full((*losses.shape[:-1], _DIRECTIONS), np.inf)
        for place in range(count):
            np.minimum(reach, better[..., place, None] / directions[:, place], out=reach)
        powered: Array = reach**count
        return powered

    reached = lengths(front).max(axis=0, initial=0.0)
    samples = generator.standard_normal((_SAMPLES, count))
    drawn = means[:, None] + deviations[:, None] * samples
    improvement: Array = np.maximum(lengths(drawn) - reached, 0.0).mean(axis=(1, 2))
    return improvement


def _below_0(means: Array, deviations: Array) -> Array:
    """Logarithm of the probability that all values are below 0, `[N]`; means and deviations are
    `[N, values]`."""
    found: Array = log_ndtr(np.maximum(-means / deviations, -_FARTHEST)).sum(axis=1)
    return found


def _ranks(choices: Sequence[Choice]) -> list[float] | None:
    """The ranks of choices, from 0 to 1, if they are numbers and perhaps one None: None comes next
    to the number beside it in the list. Other choices have no order."""
    numbers = sorted(
        choice
        for choice in choices
        if isinstance(choice, int | float) and not isinstance(choice, bool)
    )
    if len(choices) - len(numbers) > (None in choices) or len(choices) < 2 or not numbers:
        return None
    order: list[Choice] = [*numbers]
    if None in choices:
        place = list(choices).index(None)
        beside = choices[place - 1] if place else choices[1]
        order.insert(len(order) if beside == numbers[-1] else 0, None)
    return [order.index(choice) / (len(order) - 1) for choice in choices]


def _parents(genomes: Sequence[Genome], losses: Array, violations: Array) -> list[Genome]:
    """The genomes that no other dominates, among those with the smallest violation."""
    among = np.flatnonzero(violations == violations.min())
    values = losses[among]
    no_worse = (values[:, None] <= values[None]).all(axis=2)
    better = (values[:, None] < values[None]).any(axis=2)
    dominated = (no_worse & better).any(axis=0)
    return [genomes[place] for place in among[~dominated]]


def _make(
    *,
    space: SearchSpace,
    seed: int,
    population: int,  # unused: one at a time
    initial: Sequence[Genome],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],  # the scores tell
) -> GP:
    costs = [not objective.is_maximized for objective in objectives]
    return GP(space, seed=seed, initial=initial, costs=costs)


SAMPLER = Sampler(library="scipy", make=_make)
