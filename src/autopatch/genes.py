"""Genes: the choices of a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

Choice: TypeAlias = "int | float | bool | str | None"

PARTS = ("input", "backbone", "head")
"""The parts of an architecture. Each part defines genes."""


@dataclass(frozen=True)
class Gene:
    """One gene: a name, its choices, and the part of an architecture that it sets.

    Attributes:
        name: Unique in its space; the name of the parameter in a study.
        choices: Distinct JSON scalars; a genome holds an index into them.
        part: "input", "backbone" or "head".
        field: The field that it sets, such as "image_size". Genes of different slots may share a
            field. Backbone genes with the field "level" choose the feature levels.
        slot: Index of the level slot that the gene belongs to, in order of depth; None for a gene
            of the whole architecture. The value of a level gene leaves its slot empty (False or
            None), selects the level with the slot's index (True), or selects the level with the
            given index (an integer).
        active_if: Names of level genes. The gene is active if at least one of them selects a level;
            a gene without names is always active.
        per_level: For a level gene, the name pattern of the head's genes for this level, with "{}"
            for the field, such as "{}_stride8".
    """

    name: str
    choices: tuple[Choice, ...]
    part: str
    field: str
    slot: int | None = None
    active_if: tuple[str, ...] = ()
    per_level: str = ""

    @property
    def is_level(self) -> bool:
        """Whether the gene selects a feature level."""
        return self.part == "backbone" and self.field == "level"

    def level(self, choice: int) -> int | None:
        """The level that a choice of a level gene selects, or None."""
        value = self.choices[choice]
        if value is None or value is False:
            return None
        return self.slot if value is True else int(value)


Setting: TypeAlias = "Choice | tuple[Choice, ...]"


class Settings(Mapping[str, Setting]):
    """Immutable, hashable mapping from names to values, sorted by name. A value is a scalar, or a
    tuple with one scalar per level.

    Args:
        values: The values by name; lists become tuples.
    """

    def __init__(self, values: Mapping[str, object] | None = None) -> None:
        self._values: dict[str, Setting] = {
            name: tuple(value) if isinstance(value, list) else value  # type: ignore[misc]
            for name, value in sorted((values or {}).items())
        }

    def __getitem__(self, name: str) -> Setting:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)

    def to_json(self) -> dict[str, object]:
        """The values by name, with tuples as lists."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in self._values.items()}


def is_integer(value: object) -> TypeGuard[int]:
    """Whether the value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)
