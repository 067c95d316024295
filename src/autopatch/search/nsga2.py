"""NSGA-II: survivors are chosen by rank and crowding distance.

Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
"""

from __future__ import annotations

from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2  # noqa: N811

from autopatch.search.genetic import GeneticOptimizer, sampler_of


class NSGA2(GeneticOptimizer):
    """NSGA-II, see `GeneticOptimizer`."""

    algorithm = PymooNSGA2


SAMPLER = sampler_of(NSGA2)
