from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from pymoo.indicators.hv import HV

from autopatch.detector import Architecture
from autopatch.errors import InputError
from autopatch.published.once_for_all import OFA_MBV3, PUBLISHED, stage_genes
from autopatch.search import (
    TPE,
    Evaluation,
    Score,
    SearchSpace,
    compose_genes,
)
from autopatch.search.storage import quiet
from autopatch.search.tpe import _distribution

from .conftest import OBJECTIVES, propose

Evaluate = Callable[[Architecture], Evaluation]
Genome = tuple[int, ...]


def test_is_the_published_search() -> None:
    """The published objective, parameter by parameter, over made-up values."""
    space = compose_genes(OFA_MBV3, stage_genes(), preset=PUBLISHED)
    blocks = [gene.choices for gene in space.genes if gene.field == "level"]
    networks = space.genes[0].choices
    expected: list[Genome] = []

    def values(architecture: Architecture) -> tuple[int, float]:
        # Sums of binary fractions: 1 - (1 - wAP) is wAP.
        levels, sizes = architecture.backbone.levels, architecture.head.patch_sizes
        worth = sum(block % 4 + size for block, size in zip(levels, sizes, strict=True))
        return 1000 * sum(levels) + worth, worth / 128

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        trial.suggest_categorical("supernet_name", networks)
        for stage in range(5):
            trial.suggest_int(f"stage_{stage}_kernel_size", 3, 7, step=2)
            trial.suggest_categorical(f"stage_{stage}_expand_ratio", [3, 4, 6])
            trial.suggest_categorical(f"stage_{stage}_block", blocks[stage])
            trial.suggest_int(f"stage_{stage}_patch_size", 1, 16)
        try:
            genome = space.genome(trial.params)
        except InputError:
            raise RuntimeError("No blocks selected") from None
        expected.append(genome)
        if sum(genome) % 5 == 0:
            raise RuntimeError("CUDA out of memory")
        return values(space.decode(genome))

    with quiet():
        study = optuna.create_study(
            sampler=TPESampler(seed=3, multivariate=True, constant_liar=True),
            directions=["minimize", "maximize"],
        )
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study.optimize(objective, n_trials=60, catch=(RuntimeError,))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}

    optimizer = TPE(space, seed=3)
    for genome in dict.fromkeys(expected):
        assert optimizer.ask() == [genome]
        cost, worth = values(space.decode(genome))
        optimizer.tell([None if sum(genome) % 5 == 0 else Score((float(cost), 1 - worth))])


def test_numbers_and_labels(space: SearchSpace) -> None:
    optimizer = TPE(space, seed=0)
    optimizer.ask()
    (trial,) = optimizer._study.trials[-1:]
    assert list(trial.distributions) == [gene.name for gene in space.genes]
    assert trial.distributions["image_size"] == IntDistribution(160, 288, step=64)
    assert trial.distributions["patch_size_2"] == IntDistribution(1, 7, step=2)
    assert trial.distributions["use_level_0"] == CategoricalDistribution((False, True))
    bank_sizes = (500, 1000, 2000, 5000, None)
    assert trial.distributions["bank_size"] == CategoricalDistribution(bank_sizes)


@pytest.mark.parametrize(
    "choices", [(7, 5, 3), (3,), (1, 2, 4), (None, 1, 2), (False, True), ("a", "b")]
)
def test_labels(space: SearchSpace, choices: tuple[object, ...]) -> None:
    gene = replace(space.genes[0], choices=choices)
    assert _distribution(gene) == CategoricalDistribution(choices)


def test_proposed_again_is_told_again(small_space: SearchSpace, evaluate: Evaluate) -> None:
    optimizer = TPE(small_space, seed=0)
    failing: Genome | None = None
    results = {}
    while len(results) < 10:
        (genome,) = optimizer.ask()
        failing = failing or genome
        cost, loss = evaluate(small_space.decode(genome)).losses(OBJECTIVES)
        optimizer.tell([None if genome == failing else Score((cost, loss))])
        results[genome] = None if genome == failing else [cost, 1 - loss]
    trials = optimizer._study.trials
    assert len(trials) > 10
    states = set()
    for trial in trials:
        indices = (g.choices.index(trial.params[g.name]) for g in small_space.genes)
        genome = tuple(indices)
        valid = small_space.is_valid(genome)
        expected = results[small_space.canonical(genome)] if valid else None
        assert trial.values == expected
        assert trial.state == (TrialState.COMPLETE if expected else TrialState.FAIL)
        states.add((valid, trial.state))
    assert states == {
        (True, TrialState.COMPLETE),
        (True, TrialState.FAIL),
        (False, TrialState.FAIL),
    }


def test_ends_with_the_space(small_space: SearchSpace) -> None:
    optimizer = TPE(small_space, seed=0)
    genomes: list[Genome] = []
    while asked := optimizer.ask():
        genomes += asked
        optimizer.tell([None])  # nothing to learn from, so proposals stay random
    assert len(genomes) == len(set(genomes)) == small_space.size() == 16


def test_ends_where_nothing_new_is_proposed(
    small_space: SearchSpace, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autopatch.search.tpe._PROPOSALS", 1)
    genomes, _ = propose(TPE(small_space, seed=0), small_space, evaluate, count=99)
    assert 0 < len(genomes) < 16


def test_says_nothing(
    space: SearchSpace, evaluate: Evaluate, capfd: pytest.CaptureFixture[str]
) -> None:
    propose(TPE(space, seed=0), space, evaluate, count=20)
    assert capfd.readouterr() == ("", "")


def test_beats_random_search(space: SearchSpace, evaluate: Evaluate) -> None:
    def volume(objectives: list[tuple[float, ...]]) -> float:
        flops, losses = np.array(objectives).T
        scaled = (np.log10(flops) - 7) / 5  # 1e7 to 1e12 FLOPs
        return float(HV(ref_point=np.ones(2))(np.stack([scaled, losses], axis=1)))

    def sampled(seed: int) -> list[tuple[float, ...]]:
        random = np.random.default_rng(seed)
        return [evaluate(space.decode(space.sample(random))).losses(OBJECTIVES) for _ in range(60)]

    # Seeds differ by 0.03, the two searches by 0.05.
    searches = [propose(TPE(space, seed=s), space, evaluate, count=60)[1] for s in range(3)]
    samples = [sampled(seed) for seed in range(60)]
    assert np.mean([*map(volume, searches)]) > np.mean([*map(volume, samples)]) + 0.01


def test_directions(small_space: SearchSpace) -> None:
    """Values are passed to Optuna unchanged, for all directions."""
    optimizer = TPE(small_space, seed=0, directions=["maximize", "minimize", "maximize"])
    optimizer.ask()
    optimizer.tell([Score((0.25, 7.0, 1.0 - 0.75))])
    (trial,) = optimizer._study.trials
    assert trial.values == [0.75, 7.0, 0.75]
    assert [d.name for d in optimizer._study.directions] == ["MAXIMIZE", "MINIMIZE", "MAXIMIZE"]
