"""The latency table: measured once, read for every candidate."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopatch.errors import InputError, one_line
from autopatch.files import StrPath, write_json
from autopatch.search.latency.component import COMPONENTS, Case

if TYPE_CHECKING:
    from autopatch.search.space import SearchSpace
    from autopatch.supernet import Supernet

_VERSION = 2
_KIND = "autopatch latency table"


@dataclass(frozen=True)
class Machine:
    """Where a table was measured. Written for people; only `batch` changes how a table is read.

    Attributes:
        processor: Name of the CPU.
        isa: Instruction set of the CPU kernels, such as "avx2".
        device: Name of the device: "cpu", or the name of the GPU.
        threads: Number of CPU threads.
        batch: Images per batch.
        torch: Version of torch.
        autopatch: Version of autopatch.
    """

    processor: str
    isa: str
    device: str
    threads: int
    batch: int
    torch: str
    autopatch: str

    def describe(self) -> str:
        """One line, such as "AMD EPYC (avx2), 2 threads, batch 1"."""
        where = f"{self.processor} ({self.isa})" if self.device == "cpu" else self.device
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{where}, {threads}, batch {self.batch}"


@dataclass(frozen=True)
class TimedCandidate:
    """One candidate of the check of a table.

    Attributes:
        architecture: The candidate, in words.
        predicted: Its latency in the table, in seconds per image.
        measured: Its latency timed whole, in seconds per image.
    """

    architecture: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The relative error of the table, in absolute value."""
        return abs(self.predicted / self.measured - 1.0)


@dataclass(frozen=True)
class LatencyTable:
    """How long the parts of a detector take on one machine.

    The latency of a candidate is the sum over its parts, read off the table by interpolation or
    from counts of what it does: no clock is involved.

    Attributes:
        space: Name of the search space.
        weights_sha256: `Supernet.weights_sha256`.
        machine: Where it was measured.
        components: Measured values by the name of the component; each component reads its own.
        disturbed: Share of the samples during which something else used the machine, 0 to 1.
        check: Candidates timed whole.
    """

    space: str
    weights_sha256: str
    machine: Machine
    components: Mapping[str, Any]
    disturbed: float = 0.0
    check: Sequence[TimedCandidate] = field(default_factory=tuple)

    def seconds(self, case: Case) -> float:
        """Seconds per image of a candidate: the sum over all components.

        Raises:
            InputError: The table does not cover the candidate.
        """
        return sum(self.parts(case).values())

    def parts(self, case: Case) -> dict[str, float]:
        """Seconds per image of a candidate, by component.

        Raises:
            InputError: The table does not cover the candidate.
        """
        if case.supernet.name != self.space:
            raise InputError(
                f"the latency table is of {self.space}, expected one of {case.supernet.name}"
            )
        batch = self.machine.batch
        case = replace(case, batch=batch)
        return {
            name: COMPONENTS[name].seconds(values, case) / batch
            for name, values in self.components.items()
        }

    def require(self, supernet: Supernet, space: SearchSpace, batch: int, name: str) -> None:
        """Raises InputError unless the table was measured for a search space and its weights.

        Args:
            supernet: The supernet of the search.
            space: Its search space.
            batch: Images per batch.
            name: Name of the table in the message.
        """
        if self.space != supernet.name:
            raise InputError(f"{name}: a table of {self.space}, expected one of {supernet.name}")
        if self.weights_sha256 != supernet.weights_sha256:
            raise InputError(
                f"{name}: a table of other weights (SHA-256 {self.weights_sha256[:8]}), expected "
                f"those of the search ({supernet.weights_sha256[:8]}); measure it with the same "
                "weights"
            )
        self.require_batch(batch, name)
        for component, values in self.components.items():
            try:
                COMPONENTS[component].require(values, supernet, space)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

    def require_batch(self, batch: int, name: str) -> None:
        """Raises InputError unless the table was measured with batches of this size; see
        `require`."""
        if self.machine.batch != batch:
            raise InputError(
                f"{name}: a table of batches of {self.machine.batch}, expected those of {batch}; "
                "give `batch`"
            )

    @property
    def needs_counts(self) -> bool:
        """Whether the time of a search for nearest neighbors is read from what it does, which is
        counted for each candidate. On a GPU it depends on the size of the bank alone."""
        return self.machine.device == "cpu"

    @property
    def median_error(self) -> float | None:
        """Median relative error of the check; None without a check."""
        return statistics.median(c.error for c in self.check) if self.check else None

    @property
    def worst_error(self) -> float | None:
        """Largest relative error of the check; None without a check."""
        return max(c.error for c in self.check) if self.check else None

    def describe(self) -> str:
        """Machine and error on one line."""
        words = f"measured on {self.machine.describe()}"
        if self.median_error is not None and self.worst_error is not None:
            words += (
                f"; error of {len(self.check)} random candidates timed whole: median "
                f"{100 * self.median_error:.0f} %, worst {100 * self.worst_error:.0f} %"
            )
        if self.disturbed > 0:
            words += f"; {100 * self.disturbed:.0f} % of the samples were disturbed"
        return words

    @property
    def digest(self) -> str:
        """SHA-256 of the table, hexadecimal."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The table as JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        document = {
            "kind": _KIND,
            "version": _VERSION,
            **values,
            "machine": asdict(self.machine),
            "check": [asdict(each) for each in self.check],
        }
        result: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
        return result

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LatencyTable:
        """Reads what `to_json` wrote.

        Raises:
            InputError: It is not a table, or one of another version.
        """
        if not isinstance(document, Mapping) or document.get("kind") != _KIND:
            raise InputError("not a latency table, expected a file of `autopatch measure-latency`")
        if document.get("version") != _VERSION:
            raise InputError(
                f"a latency table of version {document.get('version')!r}, expected {_VERSION}; "
                "measure it anew, or search anew"
            )
        values = {k: v for k, v in document.items() if k not in ("kind", "version")}
        try:
            values["machine"] = Machine(**values["machine"])
            values["check"] = tuple(TimedCandidate(**each) for each in values["check"])
            unknown = [name for name in values["components"] if name not in COMPONENTS]
            table = cls(**values)
        except (KeyError, TypeError) as error:
            raise InputError(f"a damaged latency table ({one_line(error)})") from error
        if unknown:
            raise InputError(f"a latency table with the unknown component {unknown[0]!r}")
        return table

    def save(self, path: StrPath) -> None:
        """Writes the table to a JSON file, atomically.

        Raises:
            InputError: The file cannot be written.
        """
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: StrPath) -> LatencyTable:
        """Reads a file of `save`.

        Raises:
            InputError: The file cannot be read, or is not a table.
        """
        path = Path(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: not readable as JSON ({one_line(error)})") from error
        try:
            return cls.from_json(document)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
