"""Objectives: numbers measured on a fitted candidate, to be minimized or maximized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from autopatch.errors import InputError
from autopatch.registry import Registry

if TYPE_CHECKING:
    import torch

    from autopatch.data import Sample
    from autopatch.detector import Architecture, FittedHead
    from autopatch.search.latency import LatencyTable
    from autopatch.supernet import Supernet

MINIMIZE = "minimize"
MAXIMIZE = "maximize"


_UNSEEN = 8  # images on which a detector is tried


def unseen(scored: Sequence[Sample]) -> list[Sample]:
    """The images on which objectives try a detector: up to eight of the good ones among the scored
    images, evenly spaced; of all if none is good."""
    images = [sample for sample in scored if not sample.label] or list(scored)
    count = min(_UNSEEN, len(images))
    return [images[place * len(images) // count] for place in range(count)]


@dataclass(frozen=True)
class FittedCandidate:
    """A fitted detector that objectives are measured on.

    Attributes:
        supernet: The supernet of its backbone.
        architecture: Its architecture.
        head: Its fitted head, on the search's device.
        metrics: Its metrics on the scored images by name, such as "rwAP".
        maps: Feature maps of the `unseen` of the scored images, one tensor per level.
        latency_table: The latency table of the search; None if no objective needs one.
    """

    supernet: Supernet
    architecture: Architecture
    head: FittedHead
    metrics: Mapping[str, float]
    maps: Sequence[torch.Tensor]
    latency_table: LatencyTable | None = None

    @property
    def bank_rows(self) -> int:
        """Number of patches in its memory bank."""
        return len(self.head.memory)


@dataclass(frozen=True)
class Objective:
    """One number that a search minimizes or maximizes.

    Attributes:
        name: Its key in `Evaluation.values` and in the record.
        label: Its name in words.
        unit: Unit of displayed values, such as "GFLOP" or "%".
        scale: Divisor of displayed values: 1e9 for GFLOP, 0.01 for %.
        direction: "minimize" or "maximize".
        measure: Returns the value for a candidate: finite and below 2**53 in magnitude. If it
            raises an exception, the candidate fails. Comparing objectives ignores it.
        needs_latency_table: Whether `measure` reads the candidate's latency table.
        needs_shots: Whether `measure` needs anomalous images.
        needs_synthetic: Whether `measure` needs synthetic anomalies.

    Raises:
        InputError: A field has the wrong type or is out of its range.
    """

    name: str
    label: str
    unit: str
    scale: float
    direction: str
    measure: Callable[[FittedCandidate], float] = field(compare=False, repr=False)
    needs_latency_table: bool = field(default=False, compare=False, repr=False)
    needs_shots: bool = field(default=False, compare=False, repr=False)
    needs_synthetic: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for attribute in ("name", "label", "unit"):
            value = getattr(self, attribute)
            if not isinstance(value, str) or not (value or attribute == "unit"):
                raise InputError(f"objective {self.name!r}: {attribute} is {value!r}")
        if not isinstance(self.scale, int | float) or not self.scale > 0:
            raise InputError(
                f"objective {self.name!r}: scale is {self.scale!r}, expected a number above 0"
            )
        if self.direction not in (MINIMIZE, MAXIMIZE):
            raise InputError(
                f"objective {self.name!r}: direction is {self.direction!r}, expected "
                f"{MINIMIZE!r} or {MAXIMIZE!r}"
            )

    @property
    def is_maximized(self) -> bool:
        """Whether more is better."""
        return self.direction == MAXIMIZE

    def loss(self, value: float) -> float:
        """The loss to minimize: the value, or 1 - value if the objective is maximized.

        Meant for maximized values in [0, 1] such as rwAP. Values far below 1 lose digits; scale
        them up.
        """
        return 1.0 - value if self.is_maximized else float(value)

    def display(self, value: float) -> float:
        """The value in `unit`."""
        return value / self.scale

    @property
    def short_name(self) -> str:
        """The name with spaces for underscores, without "flops" if the unit is in FLOP: "total" for
        "total_flops" in GFLOP."""
        name = self.name.removesuffix("_flops") if self.unit.endswith("FLOP") else self.name
        return name.replace("_", " ")

    @property
    def heading(self) -> str:
        """Column heading of displayed values: short name and unit, such as "published GFLOP".

        Total FLOPs have the unit alone. If the unit is empty or equals the name, the heading is the
        name.
        """
        words, unit = self.short_name, self.unit
        if words == "total" and unit.endswith("FLOP"):
            return unit
        return words if not unit or words.lower() == unit.lower() else f"{words} {unit}"

    def to_json(self) -> dict[str, Any]:
        """The fields that are compared, as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.compare}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Objective:
        """Reads what `to_json` wrote. The objective need not be registered.

        `measure` looks up the registered objective of this name when it is called, and raises
        InputError if there is none.

        Raises:
            InputError: A field is missing, unknown or out of its range.
        """
        names = [f.name for f in fields(cls) if f.compare]
        if not isinstance(value, Mapping) or set(value) != set(names):
            raise InputError(f"objective: found {value!r}, expected a JSON object with {names}")
        name = value["name"]

        def measure(candidate: FittedCandidate) -> float:
            if name not in OBJECTIVES:
                raise InputError(f"objective {name!r} is not registered in this process")
            return OBJECTIVES[name].measure(candidate)

        return cls(**value, measure=measure)


def resolve_objectives(names: Sequence[str]) -> tuple[Objective, ...]:
    """The registered objectives of these names.

    Raises:
        InputError: A name is unknown or given twice, or no name is given.
    """
    return checked_objectives(OBJECTIVES[name] for name in names)


def checked_objectives(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Checks the objectives of one search and returns them.

    Raises:
        InputError: Two have the same name, or there is none.
    """
    checked = tuple(objectives)
    names = [objective.name for objective in checked]
    if not names or len(set(names)) != len(names):
        raise InputError(f"`objectives` are {names}, expected at least one, and none twice")
    return checked


def headings(objectives: Iterable[Objective], *, units: bool = True) -> dict[str, str]:
    """Distinct column headings of objectives, by name of the objective.

    Args:
        objectives: The objectives of one search.
        units: Whether headings include the unit.
    """
    found = {o.name: o.heading if units else o.short_name for o in objectives}
    return found if len(set(found.values())) == len(found) else {name: name for name in found}


def measure_objectives(
    objectives: Iterable[Objective], candidate: FittedCandidate
) -> dict[str, float]:
    """The values of the objectives on a fitted candidate, by name."""
    return {objective.name: float(objective.measure(candidate)) for objective in objectives}


def _total_flops(candidate: FittedCandidate) -> float:
    from autopatch.detector import total_flops

    supernet, architecture = candidate.supernet, candidate.architecture
    backbone, size = architecture.backbone, architecture.input.size
    height, width = supernet.grid(backbone, size)
    rows = candidate.bank_rows + len(candidate.head.defects)
    features = candidate.head.memory.bank.shape[1]
    return total_flops(supernet.flops(backbone, size), height * width, rows, features)


def _latency(candidate: FittedCandidate) -> float:
    from autopatch.search.latency import Case

    table = candidate.latency_table
    if table is None:
        raise InputError("the latency is read off a latency table, but there is none")
    case = Case.of(
        candidate.supernet,
        candidate.architecture,
        candidate.head,
        candidate.maps,
        counted=table.needs_counts,
    )
    return table.seconds(case)


def _memory(candidate: FittedCandidate) -> float:
    from autopatch.search.memory_use import loaded_bytes

    architecture = candidate.architecture
    return loaded_bytes(
        candidate.supernet, architecture.backbone, architecture.input.size, candidate.head
    )


def _metric(name: str) -> Callable[[FittedCandidate], float]:
    def measure(candidate: FittedCandidate) -> float:
        if name not in candidate.metrics:
            raise ValueError(f"metrics are {sorted(candidate.metrics)}, expected {name} among them")
        value = candidate.metrics[name]
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}, expected a value in [0, 1]")
        return value

    return measure


def _of_metric(name: str, label: str, **needs: bool) -> Objective:
    """The objective that maximizes a metric, in percent."""
    return Objective(name, label, "%", 0.01, MAXIMIZE, _metric(name), **needs)


LATENCY = Objective(
    name="latency",
    label="latency per image",
    unit="ms",
    scale=1e-3,
    direction=MINIMIZE,
    measure=_latency,
    needs_latency_table=True,
)

MEMORY = Objective(
    name="memory",
    label="memory of the loaded detector",
    unit="MB",
    scale=1e6,
    direction=MINIMIZE,
    measure=_memory,
)

TOTAL_FLOPS = Objective(
    name="total_flops",
    label="total FLOPs (backbone and nearest neighbors)",
    unit="GFLOP",
    scale=1e9,
    direction=MINIMIZE,
    measure=_total_flops,
)

RWAP = _of_metric("rwAP", "rwAP", needs_shots=True)

IMAGE_AUROC = _of_metric("image_AUROC", "image AUROC", needs_shots=True)

ROBUST_RWAP = _of_metric(
    "robust_rwAP", "robust rwAP (synthetic anomalies and shots)", needs_synthetic=True
)

ROBUST_IMAGE_AUROC = _of_metric(
    "robust_image_AUROC", "robust image AUROC (synthetic anomalies and shots)", needs_synthetic=True
)

DEFAULT_OBJECTIVES = (TOTAL_FLOPS.name, RWAP.name)
"""Objectives of a plan without others; they need no latency table."""

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "latency": "autopatch.search.objectives:LATENCY",
        "memory": "autopatch.search.objectives:MEMORY",
        "total_flops": "autopatch.search.objectives:TOTAL_FLOPS",
        "rwAP": "autopatch.search.objectives:RWAP",
        "image_AUROC": "autopatch.search.objectives:IMAGE_AUROC",
        "robust_rwAP": "autopatch.search.objectives:ROBUST_RWAP",
        "robust_image_AUROC": "autopatch.search.objectives:ROBUST_IMAGE_AUROC",
        "published_flops": "autopatch.published.objectives:PUBLISHED_FLOPS",
    },
)
"""Objectives by name. By convention the first objective of a search is the cost (x axis of the
plots), and the last is the quality, by which the rule picks. A constraint can bound any of
them."""
