"""The head of an architecture: patch sizes, memory bank, and optional steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from autopatch.detector.steps import STEPS
from autopatch.errors import InputError
from autopatch.genes import Choice, Gene, Setting, Settings, is_integer

PATCH_SIZES = range(1, 17)
"""Allowed patch sizes."""

DEFAULT_PATCH_SIZES = (1, 3, 5, 7, 9, 13)
DEFAULT_BANK_SIZES = (500, 1000, 2000, 5000, 10000, 20000, 40000, None)
DEFAULT_DEFECT_WEIGHT = 0.5
"""Weight of known defects where no other is given."""


@dataclass(frozen=True)
class Head:
    """Settings of the head: how feature maps become anomaly maps.

    Attributes:
        patch_sizes: Side of the average-pooled patch at each selected level, 1 to 16.
        bank_size: Number of patches in the memory bank; None keeps all.
        steps: Values of the optional steps by name. Steps that are off are removed.
        neighbors: Number of nearest neighbors whose distances are averaged, 1 to 16.
        defects: Weight w of the distance to known defects, above 0 and at most 2, see
            `autopatch.kernels.defect_scores`; None ignores known defects.
        smoothing: Standard deviation of the Gaussian that smooths anomaly maps, in pixels of the
            map, 0 to 32; 0 does not smooth.

    Raises:
        InputError: A value has the wrong type or is out of range, or a step is unknown.
    """

    patch_sizes: tuple[int, ...]
    bank_size: int | None = None
    steps: Mapping[str, Setting] = field(default_factory=Settings)
    neighbors: int = 1
    defects: float | None = None
    smoothing: float = 0

    def __post_init__(self) -> None:
        if not isinstance(self.patch_sizes, tuple):
            raise InputError(
                f"head: patch_sizes is {self.patch_sizes!r}, expected a tuple of integers"
            )
        for patch_size in self.patch_sizes:
            check_patch_size(patch_size)
        check_bank_size(self.bank_size)
        for name in _OPTIONAL:
            self.check(name, getattr(self, name))
        if not isinstance(self.steps, Mapping):
            raise InputError(f"head: steps is {self.steps!r}, expected values by name")
        on = {}
        for name, value in self.steps.items():
            step = STEPS[name]
            values = value if isinstance(value, tuple | list) else (value,)
            if isinstance(value, tuple | list) != step.per_level or (
                step.per_level and len(values) != len(self.patch_sizes)
            ):
                expected = f"{len(self.patch_sizes)} values" if step.per_level else "one value"
                raise InputError(f"head: {name} is {value!r}, expected {expected}")
            for each in values:
                step.check(each)
            if any(each != step.off for each in values):
                on[name] = value
        object.__setattr__(self, "steps", Settings(on))

    def for_patches(self, patches: int) -> Head:
        """The same settings for a number of patches: a bank at least as large keeps all of them."""
        if self.bank_size is None or self.bank_size < patches:
            return self
        return replace(self, bank_size=None)

    def active_steps(self) -> list[tuple[str, Setting]]:
        """Names and values of the steps that are on, in the order in which they run."""
        return [(name, self.steps[name]) for name in STEPS if name in self.steps]

    @staticmethod
    def genes(choices: Mapping[str, Sequence[Choice]]) -> list[Gene]:
        """Genes of the whole head.

        Args:
            choices: Choices by field; other fields have their default choices.
        """
        bank_sizes = tuple(choices.get("bank_size", DEFAULT_BANK_SIZES))
        return [
            Gene("bank_size", bank_sizes, "head", "bank_size"),
            *(
                Gene(name, values, "head", name)
                for name, values in (
                    *_optional_choices(choices),
                    *_step_choices(choices, per_level=False),
                )
            ),
        ]

    @staticmethod
    def off_choices() -> dict[str, tuple[Choice, ...]]:
        """Choices that turn off every field of the head that can be off."""
        return {
            **{name: (option.off,) for name, option in _OPTIONAL.items()},
            **{name: (STEPS[name].off,) for name in STEPS},
        }

    @staticmethod
    def level_genes(level: Gene, choices: Mapping[str, Sequence[Choice]]) -> list[Gene]:
        """Genes of the head for one level.

        Args:
            level: The backbone's gene that selects the level.
            choices: Choices by field; other fields have their default choices.
        """
        fields = [
            ("patch_size", tuple(choices.get("patch_size", DEFAULT_PATCH_SIZES))),
            *_step_choices(choices, per_level=True),
        ]
        return [
            Gene(level.per_level.format(name), values, "head", name, level.slot, (level.name,))
            for name, values in fields
        ]

    @staticmethod
    def check(field: str, value: Choice) -> None:
        """Raises InputError unless a gene of the field may have the value."""
        if field == "patch_size":
            check_patch_size(value)
        elif field == "bank_size":
            check_bank_size(value)
        elif field in _OPTIONAL:
            _OPTIONAL[field].check(value)
        else:
            STEPS[field].check(value)

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> Head:
        """Makes a head from gene values by field; values of per-level fields are tuples."""
        core = {"patch_size", "bank_size", *_OPTIONAL}
        return cls(
            patch_sizes=values["patch_size"],
            bank_size=values["bank_size"],
            **{name: values[name] for name in _OPTIONAL if name in values},
            steps=Settings({name: value for name, value in values.items() if name not in core}),
        )

    def encode(self) -> dict[str, Setting]:
        """Gene values by field for `decode`, including steps that are off."""
        values: dict[str, Setting] = {
            "patch_size": self.patch_sizes,
            "bank_size": self.bank_size,
            **{name: getattr(self, name) for name in _OPTIONAL},
        }
        for name in STEPS:
            step = STEPS[name]
            off = (step.off,) * len(self.patch_sizes) if step.per_level else step.off
            values[name] = self.steps.get(name, off)
        return values

    def describe(self, levels: Sequence[str]) -> str:
        """A short description such as "stride 4 p3 + stride 8 p3, bank 5000".

        Args:
            levels: Names of the selected levels.
        """
        bank = "all patches" if self.bank_size is None else f"bank {self.bank_size}"
        pooled = [f"{name} p{size}" for name, size in zip(levels, self.patch_sizes, strict=True)]
        options = [
            option.words.format(getattr(self, name))
            for name, option in _OPTIONAL.items()
            if getattr(self, name) != option.off
        ]
        steps = [STEPS[name].describe(value) for name, value in self.active_steps()]
        return ", ".join([" + ".join(pooled), bank, *options, *steps])

    def to_json(self) -> dict[str, Any]:
        """The head as JSON values, without what is off."""
        options = {name: getattr(self, name) for name in _OPTIONAL}
        return {
            "patch_sizes": list(self.patch_sizes),
            "bank_size": self.bank_size,
            **{name: value for name, value in options.items() if value != _OPTIONAL[name].off},
            "steps": Settings(self.steps).to_json(),
        }


def _check_neighbors(value: object) -> None:
    if not is_integer(value) or not 1 <= value <= 16:
        raise InputError(f"neighbors is {value!r}, expected an integer from 1 to 16")


def _check_defects(value: object) -> None:
    if value is not None and not (_is_number(value) and 0 < value <= 2):
        raise InputError(f"defects is {value!r}, expected a weight above 0 and at most 2, or None")


def _check_smoothing(value: object) -> None:
    if not (_is_number(value) and 0 <= value <= 32):
        raise InputError(f"smoothing is {value!r}, expected 0 to 32 pixels")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Option:
    """A field of the head that can be off.

    Attributes:
        off: The value that turns it off.
        choices: Default choices of a search.
        check: Raises InputError unless the field may have a value.
        words: Describes a value.
    """

    off: Choice
    choices: tuple[Choice, ...]
    check: Callable[[object], None]
    words: str


_OPTIONAL = {
    "neighbors": _Option(1, (1, 3), _check_neighbors, "{} neighbors"),
    "defects": _Option(None, (0.25, 0.5, 1.0), _check_defects, "known defects weighted {:g}"),
    "smoothing": _Option(0, (0, 1, 2), _check_smoothing, "smoothed by {:g} px"),
}


def _optional_choices(
    choices: Mapping[str, Sequence[Choice]],
) -> list[tuple[str, tuple[Choice, ...]]]:
    """Names and choices of the optional fields to search."""
    found = [(name, tuple(choices.get(name, o.choices))) for name, o in _OPTIONAL.items()]
    return [(name, values) for name, values in found if values != (_OPTIONAL[name].off,)]


def _step_choices(
    choices: Mapping[str, Sequence[Choice]], *, per_level: bool
) -> list[tuple[str, tuple[Choice, ...]]]:
    """Names and choices of the steps to search."""
    found = []
    for name in STEPS:
        step = STEPS[name]
        values = tuple(choices.get(name, step.choices))
        if step.per_level == per_level and values != (step.off,):
            found.append((name, values))
    return found


def check_patch_size(value: object) -> None:
    """Raises InputError unless the value is a patch size."""
    if not is_integer(value) or value not in PATCH_SIZES:
        raise InputError(
            f"patch size is {value!r}, expected an integer from {PATCH_SIZES[0]} to "
            f"{PATCH_SIZES[-1]}"
        )


def check_bank_size(value: object) -> None:
    """Raises InputError unless the value is a bank size or None."""
    if value is not None and (not is_integer(value) or value < 1):
        raise InputError(f"bank size is {value!r}, expected an integer from 1, or None for all")
