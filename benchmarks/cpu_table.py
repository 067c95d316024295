"""Runs the benchmarks of this CPU and writes `benchmarks/results/cpu_<machine>.md`.

python benchmarks/cpu_table.py                      # kernels and the whole detector
python benchmarks/cpu_table.py -k coreset           # one kernel: the table holds it alone
python benchmarks/cpu_table.py --json FILE          # the table of a run that is done
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import floors

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "autopatch",
    "torch",
    "numpy",
    "faiss-cpu",
    "scikit-learn",
    "scikit-image",
    "connected-components-3d",
    "opencv-python",
    "fpsample",
    "torchmetrics",
    "anomalib",
    "adeval",
)


@dataclass(frozen=True)
class Member:
    """One way of doing a group's work, timed.

    Attributes:
        name: Of the peer, or "autopatch" and what it does.
        isa: The ISA level, of ours.
        threads: None where it cannot be set.
        milliseconds: Median of the whole work.
        part: Share of the work that was timed.
        record: All that `measure` noted.
    """

    name: str
    isa: str | None
    threads: int | None
    milliseconds: float
    part: float
    record: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("autopatch")

    @property
    def time(self) -> str:
        return f"{self.milliseconds:,.4g}{'*' if self.part < 1 else ''}"

    def runs_on(self, threads: int) -> bool:
        return self.threads in (threads, None)

    @classmethod
    def read(cls, benchmark: dict[str, Any]) -> Member:
        info = benchmark["extra_info"]
        name = benchmark["name"].partition("[")[0].removeprefix("bench_").replace("_", " ")
        part = info.get("part", 1.0)
        return cls(
            name=name,
            isa=info.get("isa"),
            threads=info.get("threads"),
            milliseconds=1e3 * benchmark["stats"]["median"] / part,
            part=part,
            record=info,
        )


@dataclass(frozen=True)
class Group:
    """Members that do the same work."""

    name: str
    members: list[Member]

    def best(self, threads: int, *, ours: bool) -> Member | None:
        """The fastest of the peers or of ours."""
        members = [m for m in self.members if m.is_ours == ours and m.runs_on(threads)]
        return min(members, key=lambda member: member.milliseconds, default=None)

    def ratio(self, member: Member, threads: int) -> float | None:
        """How many times as fast as the best peer on as many threads."""
        peer = self.best(threads, ours=False)
        return None if peer is None else peer.milliseconds / member.milliseconds

    def noted(self, key: str) -> Any:
        """What the first of the members that noted it did."""
        return next((m.record[key] for m in self.members if m.record.get(key) is not None), None)


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmarks of this CPU as one table.")
    parser.add_argument("--json", type=Path, help="a file of --benchmark-json, instead of a run")
    parser.add_argument("-k", dest="chosen", help="as of pytest; without the detector")
    arguments = parser.parse_args()
    document = json.loads((arguments.json or run(arguments.chosen)).read_text())
    groups = read(document)
    lines = [*head(document), *short_form(groups), ""]
    for group in groups:
        lines += [*table(group), ""]
    text = "\n".join(lines)
    path = RESULTS / f"cpu_{slug(floors.processor())}.md"
    path.write_text(text)
    print(f"\nwritten: {path.relative_to(ROOT)}")
    return 0


def run(chosen: str | None) -> Path:
    """The benchmarks in a process of their own; the JSON file they leave."""
    path = Path(tempfile.mkdtemp()) / "benchmarks.json"
    command = [sys.executable, "-m", "pytest", "--benchmark", "-q", f"--benchmark-json={path}"]
    command += ["--benchmark-columns=median,rounds"]
    if chosen is not None:
        command += ["-k", chosen]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit("a benchmark failed, no table is written")
    return path


def read(document: dict[str, Any]) -> list[Group]:
    """The groups of a run, in its order."""
    members: dict[str, list[Member]] = defaultdict(list)
    for benchmark in document["benchmarks"]:
        members[benchmark["group"]].append(Member.read(benchmark))
    return [Group(name, found) for name, found in members.items()]


def head(document: dict[str, Any]) -> Iterator[str]:
    """Machine, versions, peaks, and how to read the tables."""
    yield f"# Benchmarks on {floors.processor()}"
    yield ""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    yield f"{date.today().isoformat()}, Python {platform.python_version()}; {', '.join(found)}."
    yield ""
    peaks = floors.peaks()
    if peaks:
        yield "| peak of the machine | 1 thread | 2 threads |"
        yield "|---|---|---|"
        for name, title in floors.NAMES.items():
            if (name, 1) in peaks:
                yield f"| {title} | {peaks[name, 1]:.4g} | {peaks[name, 2]:.4g} |"
    else:
        yield "No C compiler was found: the machine's peaks, and so the floors, are not known."
    yield ""
    yield "Written by `python benchmarks/cpu_table.py`; `benchmarks/README.md` says how to read it."
    yield ""


def short_form(groups: Iterable[Group]) -> Iterator[str]:
    """One row a group."""
    yield "| work | best peer, ms on 1 / 2 threads | ours | ratio | target |"
    yield "|---|---|---|---|---|"
    for group in groups:
        peers, ours, ratios = [], [], []
        for threads in (1, 2):
            peer, best = group.best(threads, ours=False), group.best(threads, ours=True)
            peers.append("-" if peer is None else f"{peer.name} {peer.time}")
            ours.append("-" if best is None else f"{best.time}")
            ratio = None if best is None else group.ratio(best, threads)
            ratios.append("-" if ratio is None else f"{ratio:.1f}")
        target = group.noted("target")
        yield (
            f"| {group.name} | {' / '.join(peers)} | {' / '.join(ours)} | {' / '.join(ratios)} "
            f"| {'' if target is None else f'{target:g}'} |"
        )


def table(group: Group) -> Iterator[str]:
    """All members, the fastest first."""
    unit, target = group.noted("unit"), group.noted("target")
    yield f"## {group.name}"
    yield ""
    facts = [f"Data: {group.noted('data')}."]
    least = {m.threads or 1: m.record["floor"] for m in group.members if "floor" in m.record}
    if least:
        times = " / ".join(f"{1e3 * least[threads]:,.3g}" for threads in sorted(least))
        facts.append(f"Floor on {' / '.join(map(str, sorted(least)))} threads: {times} ms.")
    if target is not None:
        facts.append(f"Target: {target:g} times the best peer.")
    if any(m.part < 1 for m in group.members):
        facts.append("*: extrapolated from the share of the work that is named.")
    yield " ".join(facts)
    yield ""
    yield f"| member | ISA | threads | ms | {unit} | share of the floor | ratio to the best peer |"
    yield "|---|---|---|---|---|---|---|"
    for member in sorted(group.members, key=lambda m: (m.threads or 0, m.milliseconds)):
        share = member.record.get("share_of_floor")
        ratio = group.ratio(member, member.threads or 1)
        name = member.name if member.part == 1 else f"{member.name} ({member.part:.1%} timed)"
        yield (
            f"| {name} | {member.isa or ''} | {member.threads or 'unset'} | {member.time} "
            f"| {member.record.get(unit, 0):,.4g} | {'' if share is None else f'{share:.0%}'} "
            f"| {'' if ratio is None else f'{ratio:.2f}'} |"
        )


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


if __name__ == "__main__":
    sys.exit(main())
