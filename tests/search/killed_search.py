"""Runs a search that kills its own process: `killed_search.py STUDY SPACE_JSON EVALUATIONS AT`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from autopatch.detector import Architecture
from autopatch.search import Evaluation, Plan, SearchSpace, Study, search


def evaluate(architecture: Architecture) -> Evaluation:
    cost = sum(4**level for level in architecture.backbone.levels) * architecture.input.size
    rwap = 1 - 1 / (2 + sum(architecture.head.patch_sizes) + cost % 7)
    return Evaluation({"total_flops": cost, "rwAP": rwap})


def main(path: str, space: str, evaluations: str, at: str) -> None:
    calls = 0

    def deadly(architecture: Architecture) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(architecture)

    searched = SearchSpace.from_json(json.loads(space))
    plan = Plan(searched, evaluations=int(evaluations), population=4)
    search(deadly, Study.create(Path(path), plan))


if __name__ == "__main__":
    main(*sys.argv[1:])
