"""Registries: backbone families, steps of heads, objectives, split protocols and samplers, by
name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from autopatch.errors import InputError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name. Built-in entries are imported on first use.

    Args:
        kind: What an entry is, for messages.
        builtin: "module:attribute" of each built-in entry, by name.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str] | None = None) -> None:
        self._kind = kind
        self._entries: dict[str, Entry | str] = dict(builtin or {})

    def register(self, name: str, entry: Entry) -> None:
        """Adds an entry.

        Raises:
            InputError: The name is taken.
        """
        if name in self._entries:
            raise InputError(f"{self._kind} {name!r} is registered already")
        self._entries[name] = entry

    def unregister(self, name: str) -> None:
        """Removes an entry."""
        del self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        """The entry with a name.

        Raises:
            InputError: The name is unknown; the message lists the known ones.
        """
        if name not in self._entries:
            known = ", ".join(map(repr, self._entries)) or "none"
            raise InputError(f"{self._kind} is {name!r}, expected one of {known}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = getattr(importlib.import_module(module), attribute)
            self._entries[name] = entry
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._entries))
