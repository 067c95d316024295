"""The latency of candidates: a table that is measured once and read for each of them.

- `LatencyTable`: the table. `Case`: what is read from it. `Machine`: where it was measured.
  `TimedCandidate`: a candidate that was timed whole to check it.
- `measure_table`: measures and checks a table.
- `COMPONENTS`, `Component`: the parts of the latency, by name.
- `LatencyLimit`: which architectures are fast enough to be fitted.
- `Bench`: what components are measured with. `Clock`: the clock of a measurement.
"""

from autopatch.search.latency.bench import Bench
from autopatch.search.latency.component import COMPONENTS, Case, Component
from autopatch.search.latency.limit import LatencyLimit
from autopatch.search.latency.measure import measure_table
from autopatch.search.latency.table import LatencyTable, Machine, TimedCandidate
from autopatch.search.latency.timing import Clock

__all__ = [
    "COMPONENTS",
    "Bench",
    "Case",
    "Clock",
    "Component",
    "LatencyLimit",
    "LatencyTable",
    "Machine",
    "TimedCandidate",
    "measure_table",
]
