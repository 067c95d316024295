"""Runs the benchmarks of this CPU and writes `benchmarks/results/cpu_<machine>.md`.

    python benchmarks/cpu_table.py              # the kernels and the whole detector
    python benchmarks/cpu_table.py kernels      # only the kernels; the detector as last measured
    python benchmarks/cpu_table.py detector     # only the detector; the kernels as last measured
    python benchmarks/cpu_table.py table        # measures nothing, only writes the table

Measurements are kept in `runs/benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bench_detector
import floors

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MEASURED = ROOT / "runs" / "benchmarks"
KERNELS, DETECTOR = MEASURED / "kernels.json", MEASURED / "detector.json"
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
    """The measurement of one implementation of a group's work.

    Attributes:
        name: Name of the peer, or "autopatch" with details.
        isa: ISA level; only for autopatch.
        threads: Number of threads; None if it cannot be set.
        milliseconds: Median time of the whole work.
        timed_share: Share of the work that was timed.
        record: Everything that `measure` recorded.
    """

    name: str
    isa: str | None
    threads: int | None
    milliseconds: float
    timed_share: float
    record: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("autopatch")

    @property
    def time(self) -> str:
        marks = "*" if self.timed_share < 1 else ""
        if self.record.get("others", 0.0) > floors.DISTURBED:
            marks += "!"
        return f"{self.milliseconds:,.4g}{marks}"

    def runs_on(self, threads: int) -> bool:
        return self.threads in (threads, None)

    @classmethod
    def read(cls, benchmark: dict[str, Any]) -> Member:
        info = benchmark["extra_info"]
        name = benchmark["name"].partition("[")[0].removeprefix("bench_").replace("_", " ")
        return cls(
            name=name,
            isa=info.get("isa"),
            threads=info.get("threads"),
            milliseconds=1e3 * benchmark["stats"]["median"],
            timed_share=info["timed_share"],
            record=info,
        )


@dataclass(frozen=True)
class Group:
    """The members that do the same work."""

    name: str
    members: list[Member]

    def best(self, threads: int, *, ours: bool) -> Member | None:
        """The fastest member, of the peers or of autopatch."""
        members = [m for m in self.members if m.is_ours == ours and m.runs_on(threads)]
        return min(members, key=lambda member: member.milliseconds, default=None)

    def ratio(self, member: Member, threads: int) -> float | None:
        """Speed relative to the best peer with the same number of threads."""
        peer = self.best(threads, ours=False)
        return None if peer is None else peer.milliseconds / member.milliseconds

    def noted(self, key: str) -> Any:
        """The value of `key` from the first member that recorded it."""
        return next((m.record[key] for m in self.members if m.record.get(key) is not None), None)


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmarks of this CPU as one table.")
    parser.add_argument("part", nargs="?", choices=("kernels", "detector", "table"))
    part = parser.parse_args().part
    MEASURED.mkdir(parents=True, exist_ok=True)
    if part in ("kernels", None):
        run_kernels()
    if part in ("detector", None):
        records = list(bench_detector.records())
        DETECTOR.write_text(json.dumps(records))
    lines: list[str] = []
    if KERNELS.is_file():
        document = json.loads(KERNELS.read_text())
        groups = read(document)
        lines += [*head(document), *short_form(groups), ""]
        for group in groups:
            lines += [*table(group), ""]
    if DETECTOR.is_file():
        lines += ["## The whole detector", ""]
        lines += [*bench_detector.tables(json.loads(DETECTOR.read_text())), ""]
    path = RESULTS / f"cpu_{slug(floors.processor())}.md"
    path.write_text("\n".join(lines))
    print(f"\nwritten: {path.relative_to(ROOT)}")
    return 0


def run_kernels() -> None:
    """Runs the benchmarks of the kernels in a separate process, which writes a JSON file."""
    unfinished = KERNELS.with_suffix(".partial")
    command = [sys.executable, "-m", "pytest", "--benchmark", "-q", "--benchmark-columns=median"]
    if subprocess.run([*command, f"--benchmark-json={unfinished}"], cwd=ROOT).returncode:
        raise SystemExit("a benchmark failed, no table is written")
    unfinished.replace(KERNELS)


def read(document: dict[str, Any]) -> list[Group]:
    """The groups of a run, in order of execution."""
    members: dict[str, list[Member]] = defaultdict(list)
    for benchmark in document["benchmarks"]:
        members[benchmark["group"]].append(Member.read(benchmark))
    return [Group(name, found) for name, found in members.items()]


def head(document: dict[str, Any]) -> Iterator[str]:
    """The head of the document: machine, versions, peaks, and a reference to the explanation."""
    yield f"# Benchmarks on {floors.processor()}"
    yield ""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    yield f"{document['datetime'][:10]}, Python {platform.python_version()}; {', '.join(found)}."
    yield ""
    peaks = document["peaks"]
    if peaks:
        yield "| peak of the machine | 1 thread | 2 threads |"
        yield "|---|---|---|"
        for name, title in floors.NAMES.items():
            if f"{name} 1" in peaks:
                yield f"| {title} | {peaks[f'{name} 1']:.4g} | {peaks[f'{name} 2']:.4g} |"
    else:
        yield "No C compiler was found: the machine's peaks, and so the floors, are not known."
    yield ""
    yield "Written by `python benchmarks/cpu_table.py`; `benchmarks/README.md` says how to read it."
    yield ""


def short_form(groups: Iterable[Group]) -> Iterator[str]:
    """The summary table, one row per group."""
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
    """The table of a group: all members, the fastest first."""
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
    if group.noted("index_ms") is not None:
        built = min(m.record["index_ms"] for m in group.members if "index_ms" in m.record)
        facts.append(f"Index built in {built:,.3g} ms.")
    if any(m.timed_share < 1 for m in group.members):
        facts.append("*: extrapolated from calls that do a share of the work.")
    if any("!" in m.time for m in group.members):
        facts.append("!: other processes were busy meanwhile.")
    yield " ".join(facts)
    yield ""
    yield f"| member | ISA | threads | ms | {unit} | share of the floor | ratio to the best peer |"
    yield "|---|---|---|---|---|---|---|"
    for member in sorted(group.members, key=lambda m: (m.threads or 0, m.milliseconds)):
        share = member.record.get("share_of_floor")
        ratio = group.ratio(member, member.threads or 1)
        name = member.name
        if member.timed_share < 1:
            name += f" (1/{1 / member.timed_share:,.0f} per call)"
        yield (
            f"| {name} | {member.isa or ''} | {member.threads or 'unset'} | {member.time} "
            f"| {member.record.get(unit, 0):,.4g} | {'' if share is None else f'{share:.0%}'} "
            f"| {'' if ratio is None else f'{ratio:.2f}'} |"
        )


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


if __name__ == "__main__":
    sys.exit(main())
