"""Genes: what a search chooses from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

Choice: TypeAlias = "int | float | bool | str | None"

PARTS = ("input", "backbone", "head")
"""The parts of an architecture, which contribute the genes."""


@dataclass(frozen=True)
class Gene:
    """One gene: a name, the values it chooses from, and the part of an architecture it sets.

    Attributes:
        name: Unique in its space; the name of the parameter in a study.
        choices: Distinct JSON scalars; a genome holds an index into them.
        part: "input", "backbone" or "head".
        field: What it sets there, such as "image_size". Genes of several slots share a field. The
            genes of the field "level" of the backbone choose the feature levels.
        slot: Which place for a level the gene belongs to, in order of depth; None for a gene of
            the whole architecture. A level gene leaves its slot empty (False or None), takes the
            level whose index is the slot (True), or takes the level it names (an integer).
        active_if: Names of level genes: the gene counts when at least one of them chooses a level.
            Empty for a gene that always counts.
        per_level: Of a level gene: how the head's genes for this level are named, with "{}" for
            their field, such as "{}_stride8".
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
        """Whether it chooses a feature level."""
        return self.part == "backbone" and self.field == "level"

    def level(self, choice: int) -> int | None:
        """The level that a level gene chooses, or None."""
        value = self.choices[choice]
        if value is None or value is False:
            return None
        return self.slot if value is True else int(value)


Setting: TypeAlias = "Choice | tuple[Choice, ...]"


class Settings(Mapping[str, Setting]):
    """Named values that do not change, in order of name; hashable. A value is a single one, or a
    tuple with one for each level.

    Args:
        values: By name; lists become tuples.
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
        """The values with lists for tuples."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in self._values.items()}


def is_integer(value: object) -> TypeGuard[int]:
    """Whether the value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)
