from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from autopatch.detector import Architecture, Head, Input
from autopatch.errors import InputError
from autopatch.genes import Gene, Settings
from autopatch.search import SearchSpace, compose_genes
from autopatch.supernet import Backbone, Preset

SIZES = (
    Gene("image_size", (64, 96), "input", "image_size"),
    Gene("bank_size", (10, None), "head", "bank_size"),
)


def level(slot: int, name: str) -> tuple[Gene, Gene]:
    use = f"use_{name}"
    return (
        Gene(use, (False, True), "backbone", "level", slot=slot),
        Gene(f"patch_{name}", (1, 3, 5), "head", "patch_size", slot=slot, active_if=(use,)),
    )


def architecture(
    levels: tuple[int, ...],
    patch_sizes: tuple[int, ...],
    *,
    size: int = 64,
    bank_size: int | None = None,
    network: str = "timm:x",
    **setting: Any,
) -> Architecture:
    return Architecture(
        Input(size), Backbone(network, levels, Settings(setting)), Head(patch_sizes, bank_size)
    )


def wide(
    levels: tuple[int, ...] = (4,),
    patch_sizes: tuple[int, ...] = (5,),
    *,
    bank_size: int | None = None,
    network: str = "wide",
    kernel_size: tuple[int, ...] | None = (7, 7),
    expand_ratio: tuple[int, ...] | None = (6, 4),
    **more: Any,
) -> Architecture:
    """One of the elastic space."""
    setting = {"kernel_size": kernel_size, "expand_ratio": expand_ratio} | more
    return architecture(
        levels,
        patch_sizes,
        bank_size=bank_size,
        network=network,
        **{name: value for name, value in setting.items() if value is not None},
    )


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace("timm:x", (*SIZES, *level(1, "a"), *level(4, "b")))


@pytest.fixture
def staged_space() -> SearchSpace:
    """Slots that choose one of several levels, and a gene that depends on both of them."""
    return SearchSpace(
        "timm:x",
        (
            *SIZES,
            Gene("block_0", (None, 1, 2), "backbone", "level", slot=0),
            Gene("block_1", (None, 5, 6, 7), "backbone", "level", slot=1),
            Gene("patch_0", (1, 2), "head", "patch_size", 0, active_if=("block_0", "block_1")),
            Gene("patch_1", (1, 2, 3), "head", "patch_size", 1, active_if=("block_1",)),
        ),
    )


@pytest.fixture
def elastic_space() -> SearchSpace:
    """Three stages of an elastic supernet with two networks; later levels depend on earlier
    kernels."""
    genes = [Gene("net", ("narrow", "wide"), "backbone", "network")]
    for slot in range(3):
        later = tuple(f"block_{other}" for other in range(slot, 3))
        genes += [
            Gene(f"kernel_{slot}", (3, 7), "backbone", "kernel_size", slot, later),
            Gene(
                f"ratio_{slot}", (4,) if slot else (3, 6), "backbone", "expand_ratio", slot, later
            ),
            Gene(f"block_{slot}", (None, 2 * slot + 1, 2 * slot + 2), "backbone", "level", slot),
            Gene(f"patch_{slot}", (1, 5), "head", "patch_size", slot, later[:1]),
        ]
    return SearchSpace("both", tuple(genes), {"input.image_size": 64, "head.bank_size": None})


def all_genomes(space: SearchSpace) -> list[tuple[int, ...]]:
    return list(product(*(range(len(gene.choices)) for gene in space.genes)))


def test_size_and_round_trip_agree_with_enumeration(space: SearchSpace) -> None:
    valid = [genome for genome in all_genomes(space) if space.is_valid(genome)]
    architectures = {space.decode(genome) for genome in valid}
    assert space.size() == len(architectures) == 2 * 2 * ((1 + 3) ** 2 - 1)
    assert {space.canonical(genome) for genome in valid} == set(map(space.encode, architectures))
    for genome in valid:
        assert space.decode(space.canonical(genome)) == space.decode(genome)
        assert space.encode(space.decode(genome)) == space.canonical(genome)


def test_size_of_genes_that_depend_on_several_levels(staged_space: SearchSpace) -> None:
    valid = [genome for genome in all_genomes(staged_space) if staged_space.is_valid(genome)]
    assert staged_space.size() == len({staged_space.canonical(genome) for genome in valid})


def test_elastic_sizes_and_round_trips_agree_with_enumeration(elastic_space: SearchSpace) -> None:
    genomes = all_genomes(elastic_space)
    assert len(genomes) == 2 * 24 * 12 * 12
    decoded: dict[tuple[int, ...], set[Architecture]] = {}
    for genome in genomes:
        if elastic_space.is_valid(genome):
            same = decoded.setdefault(elastic_space.canonical(genome), set())
            same.add(elastic_space.decode(genome))
    assert len(set.union(*decoded.values())) == len(decoded) == elastic_space.size()
    for canonical, (decoded_one,) in decoded.items():
        assert elastic_space.encode(decoded_one) == canonical
        assert elastic_space.decode(canonical) == decoded_one
        backbone = decoded_one.backbone
        run = (backbone.levels[-1] + 1) // 2
        kernels, ratios = backbone.setting["kernel_size"], backbone.setting["expand_ratio"]
        assert isinstance(kernels, tuple)
        assert isinstance(ratios, tuple)
        assert len(kernels) == len(ratios) == run


def test_what_lies_behind_the_deepest_level_is_no_part(elastic_space: SearchSpace) -> None:
    genome = (1, 1, 1, 0, 1, 1, 0, 2, 1, 1, 0, 0, 1)
    assert elastic_space.decode(genome) == wide()
    assert elastic_space.canonical(genome) == (1, 1, 1, 0, 0, 1, 0, 2, 1, 0, 0, 0, 0)
    assert elastic_space.parameters(genome) == {
        "net": "wide",
        "kernel_0": 7,
        "ratio_0": 6,
        "block_0": None,
        "kernel_1": 7,
        "ratio_1": 4,
        "block_1": 4,
        "patch_1": 5,
        "block_2": None,
    }
    assert SearchSpace.from_json(json.loads(json.dumps(elastic_space.to_json()))) == elastic_space


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": "both"}, "net has no choice 'both'"),
        ({"kernel_size": (5, 7)}, "kernel_0"),
        ({"expand_ratio": (6, 6)}, "ratio_1"),
        ({"kernel_size": (7,), "expand_ratio": (6,)}, "expected 2"),
        ({"kernel_size": (7,) * 3, "expand_ratio": (6,) * 3}, "expected 2"),
        ({"kernel_size": None, "expand_ratio": None}, "0 values of kernel_size, expected 2"),
        ({"depth": (3, 3)}, "no gene for depth"),
        ({"levels": (7,)}, "level 7"),
        ({"levels": (3, 4), "patch_sizes": (1, 1)}, "level"),
        ({"bank_size": 5}, "bank_size"),
    ],
)
def test_encode_names_what_an_elastic_space_lacks(
    elastic_space: SearchSpace, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        elastic_space.encode(wide(**change))


def test_encode_refuses_kernels_where_there_are_none(space: SearchSpace) -> None:
    with pytest.raises(InputError, match="it has no gene for expand_ratio"):
        space.encode(architecture((1,), (1,), bank_size=10, kernel_size=(3,), expand_ratio=(3,)))


def test_a_narrowed_space_holds_what_has_the_values(elastic_space: SearchSpace) -> None:
    narrow = elastic_space.narrowed({"kernel_size": 7, "kernel_0": 3, "net": "wide"})
    assert narrow.genes[0].choices == ("wide",)
    wanted = {
        decoded
        for genome in all_genomes(elastic_space)
        if elastic_space.is_valid(genome)
        for decoded in [elastic_space.decode(genome)]
        if decoded.backbone.network == "wide"
        and decoded.backbone.setting["kernel_size"]
        == (3, 7, 7)[: (decoded.backbone.levels[-1] + 1) // 2]
    }
    genomes = [genome for genome in all_genomes(narrow) if narrow.is_valid(genome)]
    assert {narrow.decode(genome) for genome in genomes} == wanted
    assert narrow.size() == len(wanted)
    assert elastic_space.narrowed({}) == elastic_space


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 4}, "no gene or field depth"),
        ({"kernel_1": 5}, "kernel_1 has no choice 5"),
        ({"expand_ratio": 6}, "ratio_1 has no choice 6"),
        ({"level": None}, "no level is left"),
    ],
)
def test_a_space_is_not_narrowed_to_nothing(
    elastic_space: SearchSpace, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        elastic_space.narrowed(values)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("kernel_2", {"slot": 3}),
        ("kernel_1", {"field": "expand_ratio"}),
        ("ratio_1", {"slot": None}),
        ("block_1", {"choices": [None, 3, -4]}),
        ("net", {"slot": 0}),
        ("net", {"part": "body"}),
    ],
)
def test_from_json_refuses_elastic_genes_that_do_not_fit(
    elastic_space: SearchSpace, name: str, fields: dict[str, Any]
) -> None:
    gene = [each.name for each in elastic_space.genes].index(name)
    with pytest.raises(InputError) as caught:
        SearchSpace.from_json(broken(elastic_space.to_json(), gene, **fields))
    assert "\n" not in str(caught.value)


def test_size_of_many_levels_is_immediate() -> None:
    genes = [gene for slot in range(48) for gene in level(slot, str(slot))]
    assert SearchSpace("timm:x", (*SIZES, *genes)).size() == 4 * (4**48 - 1)


def test_a_slot_may_choose_among_levels(staged_space: SearchSpace) -> None:
    decoded = staged_space.decode((0, 1, 2, 3, 1, 2))
    assert decoded == architecture((2, 7), (2, 3))
    assert staged_space.encode(decoded) == (0, 1, 2, 3, 1, 2)


def test_decode_orders_levels_and_ignores_inert_genes(space: SearchSpace) -> None:
    assert space.decode((1, 0, 1, 2, 1, 1)) == architecture((1, 4), (5, 3), size=96, bank_size=10)
    only_b = architecture((4,), (3,), bank_size=10)
    assert space.decode((0, 0, 0, 2, 1, 1)) == only_b
    assert space.active((0, 0, 0, 2, 1, 1)) == (True, True, True, False, True, True)
    assert space.canonical((0, 0, 0, 2, 1, 1)) == (0, 0, 0, 0, 1, 1)


def test_numpy_genomes_give_plain_integers(space: SearchSpace) -> None:
    genome = space.canonical(np.array([1, 1, 1, 2, 0, 2]))
    assert [type(value) for value in genome] == [int] * 6
    json.dumps(space.decode(np.array([1, 1, 1, 2, 0, 2])).to_json())


@pytest.mark.parametrize(
    "genome",
    [(0, 0, 0, 0, 0, 0), (0, 0, 1), (2, 0, 1, 0, 0, 0), (0, 0, -1, 0, 1, 0), (0,) * 7],
)
def test_invalid_genomes(space: SearchSpace, genome: tuple[int, ...]) -> None:
    assert not space.is_valid(genome)
    with pytest.raises(InputError):
        space.decode(genome)


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        (architecture((1,), (1,), bank_size=10, network="timm:y"), "timm:y"),
        (architecture((1,), (1,), bank_size=10, size=32), "image_size"),
        (architecture((1, 2), (1, 1), bank_size=10), "level 2"),
        (architecture((1,), (2,), bank_size=10), "patch_a"),
        (architecture((1,), (1,), bank_size=11), "bank_size"),
    ],
)
def test_encode_names_what_the_space_lacks(
    space: SearchSpace, foreign: Architecture, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        space.encode(foreign)


def test_parameters_round_trip(space: SearchSpace) -> None:
    parameters = space.parameters((0, 1, 0, 2, 1, 1))
    assert parameters == {
        "image_size": 64,
        "bank_size": None,
        "use_a": False,
        "use_b": True,
        "patch_b": 3,
    }
    assert space.genome(json.loads(json.dumps(parameters))) == (0, 1, 0, 0, 1, 1)
    assert space.genome({**parameters, "patch_a": 5}) == (0, 1, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch_b": None}, "patch_b"),
        ({"patch_b": 4}, "patch_b"),
        ({"use_b": 1}, "use_b"),
        ({"use_b": False}, "no level"),
        ({"more": 1}, "more"),
    ],
)
def test_parameters_that_do_not_fit(space: SearchSpace, change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        space.genome({**space.parameters((0, 1, 0, 0, 1, 1)), **change})


def test_a_missing_parameter_that_counts(space: SearchSpace) -> None:
    parameters = space.parameters((0, 1, 0, 0, 1, 1))
    del parameters["patch_b"]
    with pytest.raises(InputError, match="patch_b"):
        space.genome(parameters)


def test_samples_are_valid_canonical_and_reach_every_architecture(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    samples = [space.sample(rng) for _ in range(2000)]
    assert all(space.is_valid(genome) and space.canonical(genome) == genome for genome in samples)
    assert len(set(samples)) == space.size()
    again = np.random.default_rng(0)
    assert samples[:20] == [space.sample(again) for _ in range(20)]


def test_only_allowed_architectures_are_proposed(space: SearchSpace) -> None:
    small = replace(space, allows=lambda architecture: architecture.input.size == 64)
    valid = [genome for genome in all_genomes(space) if space.is_valid(genome)]
    allowed = [genome for genome in valid if small.is_allowed(genome)]
    assert len(allowed) == len(valid) / 2
    rng = np.random.default_rng(0)
    taken: set[tuple[int, ...]] = set()
    while (genome := small.sample_new(rng, taken)) is not None:
        taken.add(genome)
    assert taken == {small.canonical(genome) for genome in allowed}
    assert small == space
    assert small.to_json() == space.to_json()


def test_json_round_trip(space: SearchSpace, staged_space: SearchSpace) -> None:
    for each in (space, staged_space):
        assert SearchSpace.from_json(json.loads(json.dumps(each.to_json()))) == each


def broken(space: dict[str, Any], gene: int, **fields: Any) -> dict[str, Any]:
    genes = [dict(each) for each in space["genes"]]
    genes[gene].update(fields)
    return {**space, "genes": genes}


@pytest.mark.parametrize(
    ("gene", "fields"),
    [
        (0, {"choices": []}),
        (0, {"choices": [64, 64]}),
        (0, {"choices": [64, 2000]}),
        (0, {"choices": ["64"]}),
        (0, {"choices": [[64]]}),
        (0, {"choices": 64}),
        (0, {"field": "colour"}),
        (0, {"field": "bank_size"}),
        (0, {"part": "body"}),
        (0, {"part": 1}),
        (0, {"per_level": None}),
        (0, {"slot": 1}),
        (0, {"slot": True}),
        (0, {"more": 1}),
        (1, {"choices": [0]}),
        (2, {"slot": 4}),
        (2, {"slot": None}),
        (2, {"choices": [-1]}),
        (2, {"active_if": ["use_b"]}),
        (2, {"name": "use_b"}),
        (3, {"choices": [3, 17]}),
        (3, {"active_if": ["nothing"]}),
        (3, {"active_if": [1]}),
        (3, {"slot": 2}),
    ],
)
def test_from_json_refuses_genes_that_do_not_fit(
    space: SearchSpace, gene: int, fields: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace.from_json(broken(space.to_json(), gene, **fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [None, [], {"name": "x"}, {"name": 1, "genes": []}, {"name": "x", "genes": {}}]
)
def test_from_json_refuses_foreign_values(value: Any) -> None:
    with pytest.raises(InputError):
        SearchSpace.from_json(value)


def test_a_space_without_levels_is_refused() -> None:
    with pytest.raises(InputError):
        SearchSpace("timm:x", SIZES)


def test_composed_in_the_order_of_the_genome() -> None:
    """Whole backbone, input, head; then level by level the backbone's genes and the head's."""
    backbone = [
        Gene("net", ("a", "b"), "backbone", "network"),
        Gene("ratio_0", (3, 6), "backbone", "expand_ratio", 0, ("use_0", "use_1")),
        Gene("use_0", (False, True), "backbone", "level", 0, per_level="{}_0"),
        Gene("ratio_1", (3, 6), "backbone", "expand_ratio", 1, ("use_1",)),
        Gene("use_1", (False, True), "backbone", "level", 1, per_level="{}_1"),
    ]
    choices = {"bank_size": (10, 20), "patch_size": (3,)}
    plain = Preset(choices={"image_size": (64,)}, optional_genes=False)
    space = compose_genes("both", backbone, preset=plain, choices=choices)
    names = ["net", "image_size", "bank_size", "ratio_0", "use_0", "patch_size_0", "ratio_1",
             "use_1", "patch_size_1"]  # fmt: skip
    assert [gene.name for gene in space.genes] == names
    assert space.genes[5] == Gene("patch_size_0", (3,), "head", "patch_size", 0, ("use_0",))
    assert space.fixed == {}
    assert space.choices("head", "bank_size") == [10, 20]

    fixing = Preset(fix_single_choices=True, optional_genes=False)
    fixed = compose_genes("both", backbone, preset=fixing, choices=choices | {"image_size": (96,)})
    assert fixed.fixed == {"input.image_size": 96}
    assert [gene.name for gene in fixed.genes] == [name for name in names if name != "image_size"]

    every = compose_genes("both", backbone, preset=Preset(), choices=choices)
    optional = ["neighbors", "defects", "smoothing", "projection", "distance"]
    whole, by_level = every.genes[:8], every.genes[8:]
    assert [gene.name for gene in whole] == [*names[:3], *optional]
    assert [gene.name for gene in by_level if gene.field != "level_weight"] == names[3:]
    assert sum(gene.field == "level_weight" for gene in by_level) == 2
    for gene in every.genes[3:8]:
        off = Head.off_choices()[gene.name][0]
        assert off not in gene.choices if gene.name == "defects" else off == gene.choices[0]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"colour": (1,)}, "choices of 'colour' are given, expected "),
        ({"image_size": (64,)}, "choices of `image_size` are given, but the preset has its own"),
        ({"patch_size": (17,)}, "patch size is 17"),
    ],
)
def test_choices_that_do_not_fit(choices: dict[str, Any], message: str) -> None:
    backbone = [Gene("use_0", (False, True), "backbone", "level", 0, per_level="{}_0")]
    with pytest.raises(InputError, match=message):
        compose_genes("x", backbone, preset=Preset(own=("image_size",)), choices=choices)
