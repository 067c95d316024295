"""Steps of the head as genes of a search space."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autopatch.detector import STEPS, Architecture, Head, Input, Step
from autopatch.errors import InputError
from autopatch.search import SearchSpace, compose_space
from autopatch.supernet import Supernet, load_supernet


class _Step(Step):
    def check(self, value):
        if value not in (1, 2):
            raise InputError(f"it is {value!r}, expected 1 or 2")

    def describe(self, value):
        return str(value)


class Whole(_Step):
    order, off, choices = 10, 1, (1,)


class Searched(_Step):
    order, off, choices = 30, 1, (1, 2)


class OfLevels(_Step):
    order, off, choices, per_level = 20, 1, (1,), True


@pytest.fixture
def steps() -> Iterator[None]:
    added = {"whole": Whole(), "of_levels": OfLevels()}
    for name, step in added.items():
        STEPS.register(name, step)
    yield
    for name in added:
        STEPS.unregister(name)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet("timm:mobilenetv2_050", "random")


@pytest.fixture(scope="module")
def plain(supernet: Supernet) -> SearchSpace:
    return compose_space(supernet)


def test_a_step_without_choices_is_no_gene(
    steps: None, supernet: Supernet, plain: SearchSpace
) -> None:
    assert compose_space(supernet) == plain


def test_a_step_with_choices_is_a_gene_of_the_default_space(
    supernet: Supernet, plain: SearchSpace
) -> None:
    STEPS.register("searched", Searched())
    try:
        space = compose_space(supernet)
    finally:
        STEPS.unregister("searched")
    assert space.size() == 2 * plain.size()
    assert space.choices("head", "searched") == [1, 2]


def test_genes_of_steps(steps: None, supernet: Supernet, plain: SearchSpace) -> None:
    space = compose_space(supernet, choices={"whole": (1, 2), "of_levels": (1, 2)})
    names = [gene.name for gene in space.genes]
    first = names.index("use_stride4")
    assert names[:2] == ["image_size", "bank_size"]
    assert "whole" in names[2:first]
    assert names[first : first + 3] == ["use_stride4", "patch_size_stride4", "of_levels_stride4"]
    # Each level: off, or 6 patch sizes x 3 weights, x 2 values.
    assert space.size() == 2 * plain.size() * (37**4 - 1) // (19**4 - 1)
    assert SearchSpace.from_json(space.to_json()) == space


def test_architectures_with_steps(steps: None, supernet: Supernet, plain: SearchSpace) -> None:
    choices = {"whole": (1, 2), "of_levels": (1, 2), "defects": (None,)}
    space = compose_space(supernet, choices=choices)
    backbone = supernet.patchcore()
    assert backbone is not None
    for steps_on in ({}, {"whole": 2}, {"of_levels": (2, 1)}, {"whole": 2, "of_levels": (1, 2)}):
        architecture = Architecture(Input(224), backbone, Head((3, 3), 500, steps_on))
        genome = space.encode(architecture)
        assert space.decode(genome) == architecture
        assert Architecture.from_json(architecture.to_json()) == architecture
    with pytest.raises(InputError, match="no gene for of_levels"):
        plain.encode(architecture)


def test_choices_that_a_step_cannot_have(steps: None, supernet: Supernet) -> None:
    with pytest.raises(InputError, match="it is 3, expected 1 or 2"):
        compose_space(supernet, choices={"whole": (1, 3)})
    with pytest.raises(InputError, match="choices of 'width' are given"):
        compose_space(supernet, choices={"width": (1,)})
