from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from autopatch.detector import Architecture
from autopatch.genes import Choice
from autopatch.search import GP, NSGA2, Evaluation, Optimizer, Score, SearchSpace, gp

from .conftest import OBJECTIVES, propose

Evaluate = Callable[[Architecture], Evaluation]
Genome = tuple[int, ...]


def test_rounding_does_not_change_the_proposals(space: SearchSpace, evaluate: Evaluate) -> None:
    """Other numbers of threads and other processors round differently."""

    class Rounded(GP):
        def _distances(self, rows: gp.Array, columns: gp.Array) -> gp.Array:
            exact = super()._distances(rows, columns)
            shape = (len(exact), *exact.shape[1:])
            noise = np.random.default_rng(5).uniform(-1e-13, 1e-13, shape)
            if noise.shape[1] == noise.shape[2]:
                noise = (noise + noise.transpose(0, 2, 1)) / 2
            return exact * (1 + noise)

    exact, _ = propose(GP(space, seed=1), space, evaluate, count=40)
    rounded, _ = propose(Rounded(space, seed=1), space, evaluate, count=40)
    assert exact == rounded


def test_proposes_all_of_a_small_space_if_all_fail(small_space: SearchSpace) -> None:
    optimizer = GP(small_space, seed=0)
    genomes: list[Genome] = []
    while asked := optimizer.ask():
        genomes += asked
        optimizer.tell([None])
    assert len(genomes) == len(set(genomes)) == small_space.size() == 16


def test_failed_candidates_are_avoided(space: SearchSpace, evaluate: Evaluate) -> None:
    optimizer = GP(space, seed=0)
    broken: list[bool] = []
    for _ in range(60):
        (genome,) = optimizer.ask()
        architecture = space.decode(genome)
        broken.append(0 in architecture.backbone.levels)
        losses = evaluate(architecture).losses(OBJECTIVES)
        optimizer.tell([None if broken[-1] else Score(losses)])
    # Half of all random genomes have the level.
    assert sum(broken[30:]) < 0.3 * len(broken[30:])


@pytest.mark.parametrize("flops", [0.0, 1e9])
def test_losses_that_do_not_vary(space: SearchSpace, flops: float) -> None:
    """Also where there is no logarithm."""
    same = Evaluation({"total_flops": flops, "rwAP": 0.5})
    genomes, _ = propose(GP(space, seed=0), space, lambda _: same, count=20)
    assert len(set(genomes)) == 20


@pytest.mark.parametrize("margins", [(0.1, 0.1), (0.1, 0.0)])
def test_the_improvement_is_that_of_the_hypervolume(margins: tuple[float, float]) -> None:
    random = np.random.default_rng(1)
    front = random.random((30, 2))
    front = np.concatenate([front, [[0, 1], [1, 0]]])  # the range
    points = random.random((20, 2)) - 0.1
    volume = HV(ref_point=1 + np.array(margins))
    expected = [volume(np.concatenate([front, [point]])) - volume(front) for point in points]
    certain = np.zeros_like(points)
    found = gp.expected_improvement(points, certain, front, front, np.array(margins))
    # The area of a circular sector is half the square of its radius times its angle.
    np.testing.assert_allclose(found * np.pi / 4, expected, atol=3e-3)
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_the_worst_known_quality_is_worth_nothing(space: SearchSpace) -> None:
    """However low the cost; but a good candidate may cost more than all known ones."""
    front = np.array([[1.0, 0.2], [0.5, 0.6], [0.0, 1.0]])
    points = np.array([[-5.0, 1.0], [1.05, 0.0]])
    cheap, good = gp.expected_improvement(
        points, np.zeros((2, 2)), front, front, GP(space, seed=0).margins
    )
    assert cheap == 0 < good


def test_uncertain_points_may_improve_more() -> None:
    front = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    means = np.array([[0.6, 0.6]] * 3)
    deviations = np.array([[0.0, 0.0], [0.0, 0.2], [0.0, 0.4]])
    margins = np.full(2, 0.1)
    none, some, more = gp.expected_improvement(means, deviations, front, front, margins)
    assert none == 0 < some < more


def test_a_model_learns_which_genes_matter() -> None:
    random = np.random.default_rng(0)
    genomes = random.integers(0, 4, (80, 3))
    values = np.array([0.0, 2.0, -1.0, 1.0])[genomes[:, 1]] + 0.01 * genomes[:, 0]
    model = gp.GaussianProcess(3)
    among = (genomes.T[:, :, None] != genomes.T[:, None]).astype(float)
    for _ in range(8):
        model.fit(among, values, range(4))
    weights = gp._WEIGHTS[model._parameters[:-1]]
    assert weights[1] == max(weights) > min(weights) == weights[2]
    others = random.integers(0, 4, (50, 3))
    distances = (genomes.T[:, :, None] != others.T[:, None]).astype(float)
    means, deviations = model.predict(distances)
    expected = np.array([0.0, 2.0, -1.0, 1.0])[others[:, 1]] + 0.01 * others[:, 0]
    np.testing.assert_allclose(means, expected, atol=0.05)
    assert (deviations > 0).all()


def test_beats_nsga2(space: SearchSpace, evaluate: Evaluate) -> None:
    def volume(losses: list[tuple[float, ...]]) -> float:
        flops, others = np.array(losses).T
        scaled = (np.log10(flops) - 7) / 5  # 1e7 to 1e12 FLOPs
        return float(HV(ref_point=np.ones(2))(np.stack([scaled, others], axis=1)))

    def found(make: Callable[[int], Optimizer], count: int) -> float:
        return float(
            np.mean([volume(propose(make(s), space, evaluate, count=count)[1]) for s in range(2)])
        )

    half = found(lambda seed: GP(space, seed=seed), 30)
    assert half > found(lambda seed: NSGA2(space, seed=seed, population=8), 60)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ((1.0, 0.5, 2.0), [0.5, 0.0, 1.0]),
        ((500, 1000, None), [0.0, 0.5, 1.0]),
        ((None, 0.25, 0.5), [0.0, 0.5, 1.0]),
        ((None, 64, 32), [1.0, 0.5, 0.0]),
        ((False, True), None),
        (("a", None), None),
        ((1, "a", None), None),
        ((3,), None),
    ],
)
def test_ranks(choices: tuple[Choice, ...], expected: list[float] | None) -> None:
    assert gp._ranks(choices) == expected


def test_the_unit_of_a_loss_does_not_matter(space: SearchSpace, evaluate: Evaluate) -> None:
    def proposals(unit: float) -> list[Genome]:
        def scaled(architecture: Architecture) -> Evaluation:
            values = evaluate(architecture).values
            return Evaluation({**values, "total_flops": unit * values["total_flops"]})

        optimizer = GP(space, seed=0, costs=(False, False))
        return propose(optimizer, space, scaled, count=30)[0]

    assert proposals(2.0**-30) == proposals(1.0) == proposals(2.0**10)


def test_a_constraint_that_is_never_met_does_not_hide_the_losses(
    space: SearchSpace, evaluate: Evaluate
) -> None:
    optimizer = GP(space, seed=0)
    sizes: list[int] = []
    for _ in range(50):
        (genome,) = optimizer.ask()
        architecture = space.decode(genome)
        sizes.append(architecture.input.size)
        optimizer.tell([Score(evaluate(architecture).losses(OBJECTIVES), (3.0,))])
    # The losses of one size are the best; a third of all random genomes have it.
    assert sizes[20:].count(224) > 15
