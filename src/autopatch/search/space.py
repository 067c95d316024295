"""Search spaces as data: integer genomes, the meaning of their genes, and when genes are active."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from autopatch.detector import Architecture, Head, Input
from autopatch.errors import InputError
from autopatch.genes import PARTS, Choice, Gene, Setting, Settings
from autopatch.supernet import Backbone, Preset, Supernet, check_level

Genome: TypeAlias = tuple[int, ...]

_REQUIRED = {"input.image_size", "head.bank_size"}
_DRAWS = 100_000


@dataclass(frozen=True)
class SearchSpace:
    """A finite set of architectures, addressed by integer genomes.

    A genome holds one index into the choices of each gene. It is valid if it chooses at least one
    level. Valid genomes that differ only in inert genes encode the same architecture; `canonical`
    maps them to one form.

    Attributes:
        name: Name of the space; also the network, unless a gene chooses the network.
        genes: The genes, in the order of the genome.
        fixed: Fixed values of fields without a gene, by part and field, such as "head.bank_size".
        allows: Tells which architectures a search may propose; all if None. It is not part of the
            stored space.

    Raises:
        InputError: If genes contradict each other or a choice is out of its range.
    """

    name: str
    genes: tuple[Gene, ...]
    fixed: Mapping[str, Choice] = field(default_factory=dict)
    allows: Callable[[Architecture], bool] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [gene.name for gene in self.genes]
        if len(set(names)) != len(names):
            raise InputError(f"search space {self.name}: two genes have one name in {names}")
        for gene in self.genes:
            self._check(gene)
        slots = self._slots("backbone", "level")
        if not slots or len(set(slots)) != len(slots):
            raise InputError(f"search space {self.name}: expected one level gene for each slot")
        if self._slots("head", "patch_size") != slots:
            raise InputError(f"search space {self.name}: expected one patch size for each slot")
        levels = {gene.name for gene in self.genes if gene.is_level}
        for gene in self.genes:
            if gene.slot is not None and self._slots(gene.part, gene.field) != slots:
                raise InputError(
                    f"search space {self.name}: expected a gene {gene.field} for each slot, or for "
                    "none"
                )
            if not levels.issuperset(gene.active_if) or (gene.is_level and gene.active_if):
                raise InputError(
                    f"search space {self.name}: gene {gene.name} depends on "
                    f"{list(gene.active_if)}, expected level genes, and nothing for a level gene"
                )
        whole = [*self.fixed, *(_key(gene) for gene in self.genes if gene.slot is None)]
        if len(set(whole)) != len(whole) or not set(whole) >= _REQUIRED:
            raise InputError(
                f"search space {self.name}: found {sorted(whole)} beside the slots, expected "
                f"{' and '.join(sorted(_REQUIRED))} and nothing twice"
            )
        for key, value in self.fixed.items():
            part, _, name = key.partition(".")
            self._check_value(part, name, value)

    def _slots(self, part: str, name: str) -> list[int]:
        return sorted(
            gene.slot
            for gene in self.genes
            if (gene.part, gene.field) == (part, name) and gene.slot is not None
        )

    def _check(self, gene: Gene) -> None:
        where = f"search space {self.name}: gene {gene.name}"
        if gene.part not in PARTS:
            raise InputError(f"{where} is of the part {gene.part!r}, expected one of {PARTS}")
        if gene.is_level and gene.slot is None:
            raise InputError(f"{where} chooses a level, expected a slot")
        if not gene.choices or len(set(gene.choices)) != len(gene.choices):
            raise InputError(f"{where}: choices {gene.choices} are not distinct, or none")
        if gene.is_level and all(isinstance(choice, bool) for choice in gene.choices):
            return
        for choice in gene.choices:
            if gene.is_level and choice is None:
                continue
            try:
                self._check_value(gene.part, gene.field, choice)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None

    def _check_value(self, part: str, name: str, value: Choice) -> None:
        """Raises InputError if the value is out of the field's range. Of the backbone's fields,
        only the level is checked here; the family checks the others."""
        if part == "input":
            Input.check(name, value)
        elif part == "head":
            Head.check(name, value)
        elif name == "level":
            check_level(value)

    def choices(self, part: str, name: str) -> list[Choice]:
        """All choices of a field, such as "image_size": the choices of its genes, or its fixed
        value."""
        key = f"{part}.{name}"
        values = [choice for gene in self.genes if _key(gene) == key for choice in gene.choices]
        return values + ([self.fixed[key]] if key in self.fixed else [])

    def by_gene(self, values: Mapping[str, Choice]) -> dict[str, Choice]:
        """Expands values by field to values by gene.

        Args:
            values: Values by gene ("stage_0_kernel_size") or by field ("kernel_size"). A field sets
                all of its genes. The value of a gene overrides the value of its field.

        Raises:
            InputError: If a name is neither a gene nor a field.
        """
        unknown = values.keys() - {key for gene in self.genes for key in (gene.name, gene.field)}
        if unknown:
            raise InputError(f"search space {self.name}: it has no gene or field {min(unknown)}")
        return {
            gene.name: values[key]
            for gene in self.genes
            for key in (gene.field, gene.name)
            if key in values
        }

    def narrowed(self, values: Mapping[str, Choice]) -> SearchSpace:
        """The space with a single choice for some genes, named as in `by_gene`.

        Raises:
            InputError: If a name is unknown, a value is not among the choices, or no architecture
                is left.
        """
        given = self.by_gene(values)
        genes = []
        for gene in self.genes:
            if gene.name in given:
                self._find(gene, gene.choices, given[gene.name])
                gene = replace(gene, choices=(given[gene.name],))
            genes.append(gene)
        space = replace(self, genes=tuple(genes))
        if space.size() == 0:
            raise InputError(f"search space {self.name}: no level is left to choose")
        return space

    def decode(self, genome: Sequence[int]) -> Architecture:
        """The architecture of a genome.

        Raises:
            InputError: If the genome has another length, an index out of range or no level.
        """
        genome = self._indices(genome)
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for key, fixed in self.fixed.items():
            part, _, name = key.partition(".")
            parts[part][name] = fixed
        chosen: dict[int, int] = {}
        for gene, choice in zip(self.genes, genome, strict=True):
            if gene.is_level and gene.slot is not None:
                level = gene.level(choice)
                if level is not None:
                    chosen[gene.slot] = level
        # Layers after the deepest selected level are skipped, so their genes are left out.
        levels = self._slots("backbone", "level")
        run = [slot for slot in levels if slot <= max(chosen, default=-1)]
        slots = {"backbone": run, "head": sorted(chosen, key=lambda slot: chosen[slot])}
        of_slots: dict[tuple[str, str], dict[int, Choice]] = {}
        for gene, choice in zip(self.genes, genome, strict=True):
            value = gene.choices[choice]
            if gene.slot is None:
                parts[gene.part][gene.field] = value
            elif not gene.is_level:
                of_slots.setdefault((gene.part, gene.field), {})[gene.slot] = value
        for (part, name), values in of_slots.items():
            parts[part][name] = tuple(values[slot] for slot in slots[part])
        network = parts["backbone"].pop("network", self.name)
        return Architecture(
            input=Input.decode(parts["input"]),
            backbone=Backbone(network, tuple(sorted(chosen.values())), Settings(parts["backbone"])),
            head=Head.decode(parts["head"]),
        )

    def encode(self, architecture: Architecture) -> tuple[int, ...]:
        """The canonical genome of an architecture; `decode` gives the architecture back.

        Raises:
            InputError: If the space does not hold the architecture. The message says why.
        """
        backbone = architecture.backbone
        chosen = self.choices("backbone", "network")
        if not chosen and backbone.network != self.name:
            raise InputError(
                f"search space {self.name}: the architecture is one of {backbone.network}"
            )
        values: Mapping[str, Mapping[str, Setting]] = {
            "input": architecture.input.encode(),
            "backbone": {"network": backbone.network, **backbone.setting},
            "head": architecture.head.encode(),
        }
        found = {f"{part}.{name}": v for part, of in values.items() for name, v in of.items()}
        for key, expected in self.fixed.items():
            if found.get(key) != expected:
                raise InputError(
                    f"search space {self.name}: {key.partition('.')[2]} is {found.get(key)!r}, "
                    f"expected {expected!r}"
                )
        known = {*map(_key, self.genes), *self.fixed, "backbone.network"}
        for part, name in (
            *(("backbone", name) for name in backbone.setting),
            *(("head", name) for name in architecture.head.steps),
        ):
            if f"{part}.{name}" not in known:
                raise InputError(f"search space {self.name}: it has no gene for {name}")
        slots: dict[int, int] = {}
        for gene in self.genes:
            for choice in range(len(gene.choices) if gene.is_level else 0):
                level = gene.level(choice)
                if gene.slot is not None and level is not None and level in backbone.levels:
                    slots[gene.slot] = level
        absent = set(backbone.levels) - set(slots.values())
        if absent:
            raise InputError(f"search space {self.name}: it has no level {min(absent)}")
        run = [slot for slot in self._slots("backbone", "level") if slot <= max(slots)]
        of_part = {"backbone": run, "head": sorted(slots, key=lambda slot: slots[slot])}
        genome = []
        for gene in self.genes:
            if gene.is_level and gene.slot is not None:
                choices = tuple(gene.level(choice) for choice in range(len(gene.choices)))
                genome.append(self._find(gene, choices, slots.get(gene.slot)))
                continue
            value = found.get(_key(gene))
            if gene.slot is None:
                genome.append(self._find(gene, gene.choices, value))
                continue
            places = of_part[gene.part]
            if not isinstance(value, tuple) or len(value) != len(places):
                count = len(value) if isinstance(value, tuple) else 0
                raise InputError(
                    f"search space {self.name}: {count} values of {gene.field}, expected "
                    f"{len(places)}"
                )
            if gene.slot in places:
                of_slot = value[places.index(gene.slot)]
                genome.append(self._find(gene, gene.choices, of_slot))
            else:
                genome.append(0)
        return tuple(genome)

    def active(self, genome: Sequence[int]) -> tuple[bool, ...]:
        """Whether each gene is active in this genome."""
        return self._active(self._indices(genome))

    def _active(self, genome: tuple[int, ...]) -> tuple[bool, ...]:
        chosen = {
            gene.name
            for gene, choice in zip(self.genes, genome, strict=True)
            if gene.is_level and gene.level(choice) is not None
        }
        return tuple(
            not gene.active_if or not chosen.isdisjoint(gene.active_if) for gene in self.genes
        )

    def canonical(self, genome: Sequence[int]) -> tuple[int, ...]:
        """The genome with its inert genes set to 0."""
        genome = self._indices(genome)
        active = self._active(genome)
        return tuple(choice if used else 0 for choice, used in zip(genome, active, strict=True))

    def is_valid(self, genome: Sequence[int]) -> bool:
        """Whether the genome has the right length, indices in range, and at least one level, none
        twice."""
        try:
            genome = self._indices(genome)
        except InputError:
            return False
        levels = [
            gene.level(choice)
            for gene, choice in zip(self.genes, genome, strict=True)
            if gene.is_level
        ]
        chosen = [level for level in levels if level is not None]
        return bool(chosen) and len(set(chosen)) == len(chosen)

    def is_allowed(self, genome: Sequence[int]) -> bool:
        """Whether a search may propose the genome: it is valid, and `allows` its architecture."""
        if not self.is_valid(genome):
            return False
        return self.allows is None or self.allows(self.decode(genome))

    def parameters(self, genome: Sequence[int]) -> dict[str, Choice]:
        """Values of the active genes by name; `genome` is the inverse."""
        return {
            gene.name: gene.choices[choice]
            for gene, choice, used in zip(
                self.genes, self._indices(genome), self.active(genome), strict=True
            )
            if used
        }

    def genome(self, parameters: Mapping[str, Choice]) -> tuple[int, ...]:
        """The canonical genome with these gene values; inert genes may be left out.

        Raises:
            InputError: If a name is unknown or missing, a value is not among the choices, or no
                level is chosen.
        """
        unknown = parameters.keys() - {gene.name for gene in self.genes}
        if unknown:
            raise InputError(f"search space {self.name}: it has no gene {min(unknown)}")
        genome = tuple(
            self._find(gene, gene.choices, parameters[gene.name]) if gene.name in parameters else 0
            for gene in self.genes
        )
        for gene, used in zip(self.genes, self.active(genome), strict=True):
            if used and gene.name not in parameters:
                raise InputError(f"search space {self.name}: no value for gene {gene.name}")
        self.decode(genome)
        return self.canonical(genome)

    def sample(self, rng: np.random.Generator) -> tuple[int, ...]:
        """A random valid genome, in canonical form. Each gene is drawn uniformly."""
        while True:
            genome = tuple(int(rng.integers(len(gene.choices))) for gene in self.genes)
            if self.is_valid(genome):
                return self.canonical(genome)

    def sample_new(self, rng: np.random.Generator, taken: Container[Genome]) -> Genome | None:
        """A random allowed genome, in canonical form, that is not taken.

        None if there seems to be none: 100 draws for each architecture of the space, at most
        100,000, give no new one.
        """
        for _ in range(min(_DRAWS, 100 * self.size())):
            genome = self.sample(rng)
            if genome not in taken and self.is_allowed(genome):
                return genome
        return None

    def size(self) -> int:
        """Exact number of distinct architectures, allowed or not."""
        # On/off patterns are enumerated only within groups of level genes that share a dependent
        # gene: a backbone with 24 levels has 2^24 patterns in total.
        groups = [{gene.name} for gene in self.genes if gene.is_level]
        for gene in self.genes:
            joined = [group for group in groups if group & set(gene.active_if)]
            if len(joined) > 1:
                groups = [group for group in groups if group not in joined]
                groups.append(set().union(*joined))
        total, empty = 1, 1
        for group in groups:
            counts = self._counts(group)
            total *= sum(counts)
            empty *= counts[0]
        free = math.prod(
            len(gene.choices) for gene in self.genes if not gene.is_level and not gene.active_if
        )
        return free * (total - empty)

    def _counts(self, group: set[str]) -> list[int]:
        """Number of canonical genomes for each on/off pattern of a group's level genes."""
        members = [gene for gene in self.genes if gene.name in group]
        dependents = [gene for gene in self.genes if group & set(gene.active_if)]
        counts = []
        for pattern in product((False, True), repeat=len(members)):
            on = {gene.name for gene, used in zip(members, pattern, strict=True) if used}
            count = 1
            for gene, used in zip(members, pattern, strict=True):
                chosen = [gene.level(choice) is not None for choice in range(len(gene.choices))]
                count *= chosen.count(used)
            for gene in dependents:
                count *= len(gene.choices) if on & set(gene.active_if) else 1
            counts.append(count)
        return counts

    def to_json(self) -> dict[str, Any]:
        """The space as JSON values; `from_json` is the inverse."""
        return {
            "name": self.name,
            "fixed": dict(self.fixed),
            "genes": [
                {
                    "name": gene.name,
                    "choices": list(gene.choices),
                    "part": gene.part,
                    "field": gene.field,
                    "slot": gene.slot,
                    "active_if": list(gene.active_if),
                    "per_level": gene.per_level,
                }
                for gene in self.genes
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchSpace:
        """Reads what `to_json` wrote.

        Raises:
            InputError: If a field is missing or unknown, or the genes do not fit together.
        """
        types = {"name": str, "fixed": Mapping, "genes": list}
        if not isinstance(value, Mapping) or value.keys() != types.keys():
            raise InputError(f"search space: expected a JSON object with {sorted(types)}")
        for name, kind in types.items():
            if not isinstance(value[name], kind):
                raise InputError(f"search space: {name} is {value[name]!r}")
        return cls(
            value["name"],
            tuple(_gene(gene) for gene in value["genes"]),
            dict(value["fixed"]),
        )

    def _indices(self, genome: Sequence[int]) -> tuple[int, ...]:
        if len(genome) != len(self.genes):
            raise InputError(
                f"search space {self.name}: a genome of {len(genome)} genes, expected "
                f"{len(self.genes)}"
            )
        for gene, choice in zip(self.genes, genome, strict=True):
            if not 0 <= choice < len(gene.choices):
                raise InputError(
                    f"search space {self.name}: gene {gene.name} is {choice}, expected 0 to "
                    f"{len(gene.choices) - 1}"
                )
        return tuple(int(choice) for choice in genome)

    def _find(self, gene: Gene, choices: Sequence[Choice], value: object) -> int:
        for index, choice in enumerate(choices):
            if type(choice) is type(value) and choice == value:  # True == 1 is no match
                return index
        raise InputError(
            f"search space {self.name}: {gene.name} has no choice {value!r}, expected one of "
            f"{list(gene.choices)}"
        )


def compose_space(
    supernet: Supernet,
    *,
    preset: Preset | None = None,
    choices: Mapping[str, Sequence[Choice]] | None = None,
) -> SearchSpace:
    """The search space of a supernet: genes of the backbone, the input and the head.

    Args:
        supernet: The supernet.
        preset: The preset; the supernet's default preset if None.
        choices: Choices by field, such as "image_size", "patch_size", "bank_size" or a step of the
            head. They replace the preset's choices.

    Raises:
        InputError: A field is unknown or set by the preset, a choice is out of its range, or the
            backbone cannot process an image size.
    """
    space = compose_genes(
        supernet.name,
        supernet.genes(),
        preset=preset or supernet.presets["default"],
        choices=choices,
    )
    for size in space.choices("input", "image_size"):
        assert isinstance(size, int)
        supernet.require_image_size(size)
    return space


def compose_genes(
    name: str,
    backbone: Sequence[Gene],
    *,
    preset: Preset,
    choices: Mapping[str, Sequence[Choice]] | None = None,
) -> SearchSpace:
    """Composes a search space from a list of backbone genes, see `compose_space`.

    The genes are in this order: whole backbone, input, whole head; then, for each level, the
    level's backbone genes and its head genes.
    """
    given = choices or {}
    for field_name, values in given.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise InputError(f"choices of `{field_name}` are {values!r}, expected a list of values")
        if field_name in preset.own:
            raise InputError(f"choices of `{field_name}` are given, but the preset has its own")
    off = {} if preset.optional_genes else Head.off_choices()
    merged = {**off, **preset.choices, **given}
    whole = [
        *(gene for gene in backbone if gene.slot is None),
        *Input.genes(merged),
        *Head.genes(merged),
    ]
    by_level: list[Gene] = []
    for gene in backbone:
        if gene.slot is not None:
            by_level.append(gene)
        if gene.is_level:
            by_level += Head.level_genes(gene, merged)
    known = {gene.field for gene in (*whole, *by_level) if gene.part != "backbone"}
    known |= Head.off_choices().keys()
    for field_name in given:
        if field_name not in known:
            raise InputError(f"choices of {field_name!r} are given, expected {sorted(known)}")
    fixed: dict[str, Choice] = {}
    if preset.fix_single_choices:
        fixed = {_key(gene): gene.choices[0] for gene in whole if len(gene.choices) == 1}
    genes = [gene for gene in whole if _key(gene) not in fixed] + by_level
    return SearchSpace(name, tuple(genes), fixed)


def _key(gene: Gene) -> str:
    """Part and field of a gene. Two parts may have fields of the same name."""
    return f"{gene.part}.{gene.field}"


def _gene(value: Any) -> Gene:
    types = {
        "name": str,
        "choices": list,
        "part": str,
        "field": str,
        "slot": int | None,
        "active_if": list,
        "per_level": str,
    }
    if not isinstance(value, Mapping) or value.keys() != types.keys():
        raise InputError(f"search space: a gene is {value!r}, expected the fields {sorted(types)}")
    for name, kind in types.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise InputError(f"search space: {name} of a gene is {value[name]!r}")
    for choice in value["choices"]:
        if not isinstance(choice, int | float | str | None):
            raise InputError(
                f"search space: gene {value['name']} has a choice {choice!r}, expected a number, "
                "a bool, a text or null"
            )
    if not all(isinstance(name, str) for name in value["active_if"]):
        raise InputError(f"search space: gene {value['name']} depends on {value['active_if']!r}")
    lists = {name: tuple(value[name]) for name in ("choices", "active_if")}
    return Gene(**{**value, **lists})
