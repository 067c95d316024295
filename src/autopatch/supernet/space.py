"""Search spaces as data: an integer genome, what its genes mean and when they count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from autopatch.errors import InputError
from autopatch.supernet.architecture import (
    IMAGE_SIZES,
    Architecture,
    check_bank_size,
    check_depth,
    check_expand_ratio,
    check_image_size,
    check_kernel_size,
    check_level,
    check_patch_size,
)

Choice: TypeAlias = "int | bool | str | None"

_SCALARS = ("bank_size", "image_size", "supernet")
_ELASTIC = ("depth", "expand_ratio", "kernel_size")


@dataclass(frozen=True)
class Gene:
    """One gene: a name, the values it chooses from, and the part of an architecture it sets.

    Attributes:
        name: Unique in its space; the name of the parameter in a study.
        choices: Distinct JSON scalars; a genome holds an index into them.
        field: "supernet", "image_size" or "bank_size"; or of a slot "level", "patch_size",
            "kernel_size", "expand_ratio" or "depth".
        slot: Which place for a level the gene belongs to, in order of depth; of an elastic supernet
            a stage. A level gene leaves its slot empty (False or None), takes the level whose index
            is the slot (True), or takes the level it names (an integer).
        active_if: Names of level genes: the gene counts when at least one of them chooses a level.
            Empty for a gene that always counts.
    """

    name: str
    choices: tuple[Choice, ...]
    field: str
    slot: int | None = None
    active_if: tuple[str, ...] = ()

    def level(self, choice: int) -> int | None:
        """The level that a level gene chooses, or None."""
        value = self.choices[choice]
        if value is None or value is False:
            return None
        return self.slot if value is True else int(value)


@dataclass(frozen=True)
class SearchSpace:
    """A finite set of architectures, addressed by integer genomes.

    A genome holds one index into each gene's choices and is valid when it chooses at least one
    level. Two valid genomes that differ in inert genes only are the same architecture; `canonical`
    gives both the same form.

    Attributes:
        name: Name of the space; of its supernet as well, where no gene chooses that.
        genes: The genes, in the order of the genome.
        fixed: Values of "image_size" and "bank_size" where no gene sets them.

    Raises:
        InputError: If the genes contradict each other or hold a value that is out of its range.
    """

    name: str
    genes: tuple[Gene, ...]
    fixed: Mapping[str, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [gene.name for gene in self.genes]
        if len(set(names)) != len(names):
            raise InputError(f"search space {self.name}: two genes have one name in {names}")
        for gene in self.genes:
            self._check(gene)
        levels = {gene.name for gene in self.genes if gene.field == "level"}
        slots = self._slots("level")
        if not slots or len(set(slots)) != len(slots):
            raise InputError(f"search space {self.name}: expected one level gene for each slot")
        if self._slots("patch_size") != slots:
            raise InputError(f"search space {self.name}: expected one patch size for each slot")
        if any(self._slots(name) not in ([], slots) for name in _ELASTIC):
            raise InputError(
                f"search space {self.name}: expected a kernel size, an expand ratio or a depth "
                "for each slot, or for none"
            )
        scalars = sorted([*self.fixed, *(gene.field for gene in self.genes if gene.slot is None)])
        if scalars not in (["bank_size", "image_size"], sorted(_SCALARS)):
            raise InputError(
                f"search space {self.name}: found {scalars} beside the slots, expected one "
                "bank_size, one image_size and at most one supernet"
            )
        check_image_size(self.fixed.get("image_size", IMAGE_SIZES[0]))
        check_bank_size(self.fixed.get("bank_size"))
        for gene in self.genes:
            if not levels.issuperset(gene.active_if) or (gene.field == "level" and gene.active_if):
                raise InputError(
                    f"search space {self.name}: gene {gene.name} depends on "
                    f"{list(gene.active_if)}, expected level genes, and nothing for a level gene"
                )

    def _slots(self, field: str) -> list[int]:
        return sorted(g.slot for g in self.genes if g.field == field and g.slot is not None)

    def _check(self, gene: Gene) -> None:
        checks: dict[str, Callable[[object], None]] = {
            "supernet": _check_name,
            "image_size": check_image_size,
            "bank_size": check_bank_size,
            "level": check_level,
            "patch_size": check_patch_size,
            "kernel_size": check_kernel_size,
            "expand_ratio": check_expand_ratio,
            "depth": check_depth,
        }
        where = f"search space {self.name}: gene {gene.name}"
        if gene.field not in checks:
            raise InputError(f"{where} sets {gene.field!r}, expected one of {sorted(checks)}")
        if (gene.slot is None) != (gene.field in _SCALARS):
            raise InputError(f"{where} has slot {gene.slot!r}, which does not suit {gene.field}")
        if not gene.choices or len(set(gene.choices)) != len(gene.choices):
            raise InputError(f"{where}: choices {gene.choices} are not distinct, or none")
        if gene.field == "level" and all(isinstance(choice, bool) for choice in gene.choices):
            return
        for choice in gene.choices:
            if gene.field == "level" and choice is None:
                continue
            try:
                checks[gene.field](choice)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None

    def choices(self, field: str) -> list[int]:
        """Numbers that a field is chosen from, such as all image sizes."""
        values = [choice for g in self.genes if g.field == field for choice in g.choices]
        values += [self.fixed[field]] if field in self.fixed else []
        return [value for value in values if type(value) is int]

    def by_gene(self, values: Mapping[str, Choice]) -> dict[str, Choice]:
        """Values by gene, from those by gene ("stage_0_kernel_size") or for all genes of a field
        ("kernel_size"); that of a gene goes before that of its field.

        Raises:
            InputError: If a name is neither.
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
        values: dict[str, Any] = {"supernet": self.name, **self.fixed}
        slotted: dict[str, dict[int, Any]] = {
            name: {} for name in ("level", "patch_size", *_ELASTIC)
        }
        for gene, choice in zip(self.genes, genome, strict=True):
            if gene.slot is None:
                values[gene.field] = gene.choices[choice]
            elif gene.field != "level":
                slotted[gene.field][gene.slot] = gene.choices[choice]
            elif (level := gene.level(choice)) is not None:
                slotted["level"][gene.slot] = level
        levels = slotted["level"]
        chosen = sorted((level, slotted["patch_size"][slot]) for slot, level in levels.items())
        # What lies behind the deepest level is not run, so it is no part of the architecture.
        run = [slot for slot in self._slots("level") if slot <= max(levels, default=-1)]
        for name in _ELASTIC:
            values[f"{name}s"] = tuple(slotted[name][slot] for slot in run if slotted[name])
        return Architecture(
            levels=tuple(level for level, _ in chosen),
            patch_sizes=tuple(patch_size for _, patch_size in chosen),
            **values,
        )

    def encode(self, architecture: Architecture) -> tuple[int, ...]:
        """The canonical genome of an architecture; `decode` gives the architecture back.

        Raises:
            InputError: If the space does not hold the architecture, naming what it lacks.
        """
        supernets = [gene for gene in self.genes if gene.field == "supernet"]
        if not supernets and architecture.supernet != self.name:
            raise InputError(
                f"search space {self.name}: the architecture is one of {architecture.supernet}"
            )
        for name, value in self.fixed.items():
            if getattr(architecture, name) != value:
                raise InputError(
                    f"search space {self.name}: {name} is {getattr(architecture, name)!r}, "
                    f"expected {value!r}"
                )
        patch_sizes = dict(zip(architecture.levels, architecture.patch_sizes, strict=True))
        slots: dict[int, int] = {}
        for gene in self.genes:
            for choice in range(len(gene.choices) if gene.field == "level" else 0):
                level = gene.level(choice)
                if level in patch_sizes and gene.slot is not None:
                    slots[gene.slot] = level
        absent = patch_sizes.keys() - slots.values()
        if absent:
            raise InputError(f"search space {self.name}: it has no level {min(absent)}")
        run = [slot for slot in self._slots("level") if slot <= max(slots)]
        values: dict[str, dict[int, int]] = {
            "patch_size": {slot: patch_sizes[level] for slot, level in slots.items()}
        }
        for name in _ELASTIC:
            found = getattr(architecture, f"{name}s")
            expected = len(run) if self._slots(name) else 0
            if len(found) != expected:
                raise InputError(
                    f"search space {self.name}: {len(found)} values of {name}, expected {expected}"
                )
            values[name] = dict(zip(run, found, strict=False))
        genome = []
        for gene in self.genes:
            if gene.slot is None:
                genome.append(self._find(gene, gene.choices, getattr(architecture, gene.field)))
            elif gene.field == "level":
                choices = tuple(gene.level(choice) for choice in range(len(gene.choices)))
                genome.append(self._find(gene, choices, slots.get(gene.slot)))
            elif gene.slot in values[gene.field]:
                genome.append(self._find(gene, gene.choices, values[gene.field][gene.slot]))
            else:
                genome.append(0)
        return tuple(genome)

    def active(self, genome: Sequence[int]) -> tuple[bool, ...]:
        """For each gene, whether it counts in this genome."""
        genome = self._indices(genome)
        chosen = {
            gene.name
            for gene, choice in zip(self.genes, genome, strict=True)
            if gene.field == "level" and gene.level(choice) is not None
        }
        return tuple(
            not gene.active_if or not chosen.isdisjoint(gene.active_if) for gene in self.genes
        )

    def canonical(self, genome: Sequence[int]) -> tuple[int, ...]:
        """The genome with its inert genes set to 0."""
        genome = self._indices(genome)
        active = self.active(genome)
        return tuple(choice if used else 0 for choice, used in zip(genome, active, strict=True))

    def is_valid(self, genome: Sequence[int]) -> bool:
        """Whether the genome has the right length, indices in range and at least one level."""
        try:
            self.decode(genome)
        except InputError:
            return False
        return True

    def parameters(self, genome: Sequence[int]) -> dict[str, Choice]:
        """Names and values of the genes that count; `genome` reads them back."""
        return {
            gene.name: gene.choices[choice]
            for gene, choice, used in zip(
                self.genes, self._indices(genome), self.active(genome), strict=True
            )
            if used
        }

    def genome(self, parameters: Mapping[str, Choice]) -> tuple[int, ...]:
        """The canonical genome of named values; genes that do not count may be left out.

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
        """A valid canonical genome, each gene drawn uniformly."""
        while True:
            genome = tuple(int(rng.integers(len(gene.choices))) for gene in self.genes)
            if self.is_valid(genome):
                return self.canonical(genome)

    def points(self) -> int:
        """Number of genomes, those included that differ in inert genes only or choose no level."""
        return math.prod(len(gene.choices) for gene in self.genes)

    def size(self) -> int:
        """Exact number of distinct architectures."""
        # Level genes that share no dependent gene are independent, so the on/off patterns are
        # enumerated within each group only; a backbone with 24 levels has 2^24 patterns in all.
        groups = [{gene.name} for gene in self.genes if gene.field == "level"]
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
            len(gene.choices) for gene in self.genes if gene.field != "level" and not gene.active_if
        )
        return free * (total - empty)

    def _counts(self, group: set[str]) -> list[int]:
        """Number of canonical choices for each on/off pattern of a group's level genes."""
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
        """The space as JSON values; `from_json` reads them back."""
        return {
            "name": self.name,
            "fixed": dict(self.fixed),
            "genes": [
                {
                    "name": gene.name,
                    "choices": list(gene.choices),
                    "field": gene.field,
                    "slot": gene.slot,
                    "active_if": list(gene.active_if),
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

    def _find(self, gene: Gene, choices: Sequence[Choice], value: Choice) -> int:
        for index, choice in enumerate(choices):
            if type(choice) is type(value) and choice == value:  # True == 1 is no match
                return index
        raise InputError(
            f"search space {self.name}: {gene.name} has no choice {value!r}, expected one of "
            f"{list(gene.choices)}"
        )


def _gene(value: Any) -> Gene:
    names = {"name", "choices", "field", "slot", "active_if"}
    if not isinstance(value, Mapping) or value.keys() != names:
        raise InputError(f"search space: a gene is {value!r}, expected the fields {sorted(names)}")
    types = {"name": str, "choices": list, "field": str, "slot": int | None, "active_if": list}
    for name, kind in types.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise InputError(f"search space: {name} of a gene is {value[name]!r}")
    for choice in value["choices"]:
        if not isinstance(choice, int | str | None):
            raise InputError(
                f"search space: gene {value['name']} has a choice {choice!r}, expected an "
                "integer, a bool, a text or null"
            )
    if not all(isinstance(name, str) for name in value["active_if"]):
        raise InputError(f"search space: gene {value['name']} depends on {value['active_if']!r}")
    return Gene(
        name=value["name"],
        choices=tuple(value["choices"]),
        field=value["field"],
        slot=value["slot"],
        active_if=tuple(value["active_if"]),
    )


def _check_name(value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"supernet is {value!r}, expected a name")
