"""Results in a file, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Record:
    """A file with a JSON document on each line: first the setting, then results.

    A line that was not written to its end is removed.

    Args:
        path: The file; created if it is missing.
        setting: What the results depend on.

    Attributes:
        results: The results so far.

    Raises:
        SystemExit: The file has another setting.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self._path = path
        self.results: list[dict[str, Any]] = []
        head = json.loads(json.dumps(setting))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            whole = [line for line in file if line.endswith(b"\n")]
            file.truncate(sum(map(len, whole)))
        if whole:
            first, *self.results = map(json.loads, whole)
            if first != head:
                raise SystemExit(f"{path}: holds results of another setting; remove it")
        else:
            path.write_text(json.dumps(head) + "\n")

    def add(self, result: Mapping[str, Any]) -> None:
        """Appends a result."""
        self.results.append(dict(result))
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")
