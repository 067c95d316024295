"""Backbone weights in safetensors files."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg

from autopatch.errors import InputError, one_line, reason
from autopatch.files import StrPath, path_kind


@dataclass(frozen=True)
class Weights:
    """Contents of a weights file. Metadata that the file lacks are None.

    Attributes:
        path: The file.
        state: Tensors by key; floating-point tensors as float32.
        timm_model: Name of the timm model.
        timm_kwargs: Arguments of the timm model.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
    """

    path: Path
    state: dict[str, torch.Tensor]
    timm_model: str | None
    timm_kwargs: dict[str, Any] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names, dtypes, shapes and values of tensors, as 64 hexadecimal digits.

    Order, memory layout and device of the tensors do not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def random_provenance(seed: int) -> str:
    """The provenance of random weights, on one line."""
    return f"RANDOM features: weights drawn with seed {seed}, trained on nothing"


def read_weights(path: StrPath) -> Weights:
    """Reads a .safetensors file and its metadata.

    Raises:
        InputError: The file is missing or damaged, or its metadata is malformed.
    """
    path = Path(path)
    if path_kind(path) != "file":
        raise InputError(f"{path}: no such file, expected weights (.safetensors)")
    metadata, state = read_safetensors(path)
    return Weights(
        path=path,
        state={k: v.float() if v.is_floating_point() else v for k, v in state.items()},
        timm_model=metadata.get("timm_model"),
        timm_kwargs=_kwargs(path, metadata),
        mean=_channels(path, metadata, "mean"),
        std=_channels(path, metadata, "std"),
    )


def read_safetensors(path: StrPath) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Reads metadata and tensors of an existing .safetensors file.

    Raises:
        InputError: The file cannot be read, is damaged, or is of another format.
    """
    try:
        with Path(path).open("rb"):  # safetensors gives no reason if it cannot open a file
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    try:
        with safe_open(Path(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: truncated or not a safetensors file ({one_line(error)})"
        ) from error


@dataclass(frozen=True)
class TimmSource:
    """The source of a timm model's weights, and how to use them.

    Attributes:
        name: Name of the model.
        file: The weights file, None for "pretrained" and "random".
        kwargs: Arguments of `timm.create_model`.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel standard deviations.
        provenance: Origin of the weights, on one line.
        is_random: Whether the weights are random.
    """

    name: str
    file: Weights | None
    kwargs: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: str
    is_random: bool


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading weights: normalization, seed, and options of the family.

    Attributes:
        mean: Channel means of the input, for pixels in [0, 1]; None for the means that belong to
            the weights.
        std: Channel standard deviations; None for those that belong to the weights.
        seed: Seed of random weights.
        own: Options of the family by name; values None and False are removed.

    Raises:
        InputError: See `check_channels`.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    seed: int = 0
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: v for name, v in self.own.items() if v is not None and v is not False}
        object.__setattr__(self, "own", given)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, check_channels(name, values))

    def require(self, space: str, *known: str) -> None:
        """Raises InputError if an option of the family is not one of the known ones."""
        for name in self.own:
            if name not in known:
                expected = " and ".join(known) if known else "no option of its own"
                raise InputError(f"`{name}` is given, but {space} takes {expected}")


_WORDS = ("auto", "pretrained", "random")  # not files


def weights_paths(weights: str) -> list[Path]:
    """The file or folder of weights; none for "auto", "pretrained" and "random".

    Raises:
        InputError: There is no such file or folder.
    """
    if weights in _WORDS:
        return []
    if not weights or path_kind(weights) is None:
        raise InputError(f"{weights or 'weights'}: no such file or folder, expected weights")
    return [Path(weights)]


def find_source(space: str, weights: str, options: LoadOptions) -> TimmSource:
    """Finds the weights of a timm model and reads their file, if there is one.

    Args:
        space: A prefix, a colon and the name of the model.
        weights: A .safetensors file, "pretrained" for the weights of timm's hub, or "random". A
            file needs `timm_kwargs`, `mean` and `std` in its metadata unless they are given as
            options; options override the metadata.
        options: Normalization and seed; `timm_kwargs` is the only option of the family.

    Raises:
        InputError: An option or the model is unknown, the file cannot be read or holds another
            model, or mean, std or timm_kwargs is neither given nor in the file.
    """
    options.require(space, "timm_kwargs")
    mean, std, timm_kwargs = options.mean, options.std, options.own.get("timm_kwargs")
    name = space.partition(":")[2]
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"timm has no model '{name}'{hint}")
    try:
        settings = timm.get_pretrained_cfg(name) or PretrainedCfg()
    except RuntimeError as error:  # the name has an unknown tag
        raise InputError(f"timm:{name}: {one_line(error)}") from error
    file = None if weights in ("random", "pretrained") else read_weights(Path(weights))
    if file is not None:
        # A tag after a dot names pretrained weights of the same model.
        stored = name if file.timm_model is None else file.timm_model
        if stored.partition(".")[0] != name.partition(".")[0]:
            raise InputError(
                f"{weights}: holds weights of timm:{file.timm_model}, but the space is {space}"
            )
        timm_kwargs = timm_kwargs if timm_kwargs is not None else file.timm_kwargs
        mean, std = mean or file.mean, std or file.std
        for setting, value in (("timm_kwargs", timm_kwargs), ("mean", mean), ("std", std)):
            if value is None:
                raise InputError(
                    f"{weights}: {setting} is not in the file's metadata; give `{setting}`"
                )
    if file is not None:
        provenance = f"weights of {file.path.name}"
    elif weights == "random":
        provenance = random_provenance(options.seed)
    else:
        provenance = f"weights of timm's hub ({settings.hf_hub_id or name})"
    return TimmSource(
        name=name,
        file=file,
        kwargs=dict(timm_kwargs or {}),
        mean=check_channels("mean", mean or settings.mean),
        std=check_channels("std", std or settings.std),
        provenance=provenance,
        is_random=weights == "random",
    )


def load_into(model: torch.nn.Module, weights: Weights) -> None:
    """Loads the tensors of a file into a model. Other tensors in the file, such as a classifier's,
    are ignored.

    Keys in the file are those of the whole timm model or of its feature extractor. The extractor's
    keys have the prefix "model.", or an underscore between the first two names.

    Raises:
        InputError: A tensor of the model is missing, has another shape, has integers instead of
            floats (or the reverse), or holds NaN or infinity. The message names the first one.
    """
    own = model.state_dict()
    state = {}
    for key, tensor in own.items():
        name = _stored_key(key, weights.state)
        if name is None:
            if key.endswith("num_batches_tracked"):  # a count of training steps, not used here
                state[key] = tensor
                continue
            raise InputError(f"{weights.path}: lacks {key}, expected {list(tensor.shape)}")
        found = weights.state[name]
        if found.shape != tensor.shape:
            raise InputError(
                f"{weights.path}: {name} has shape {list(found.shape)}, expected "
                f"{list(tensor.shape)}"
            )
        if found.is_floating_point() != tensor.is_floating_point():
            raise InputError(f"{weights.path}: {name} holds {found.dtype}, expected {tensor.dtype}")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise InputError(f"{weights.path}: {name} holds NaN or infinity")
        state[key] = found
    model.load_state_dict(state)


def _stored_key(key: str, stored: Mapping[str, torch.Tensor]) -> str | None:
    head, _, rest = key.partition(".")
    names = [key]
    if head == "model":
        names.append(rest)
    names += [f"{head[:i]}.{head[i + 1 :]}.{rest}" for i, c in enumerate(head) if c == "_"]
    return next((name for name in names if name in stored), None)


def check_channels(name: str, values: object) -> tuple[float, ...]:
    """Means or standard deviations of the three input channels, as floats.

    Raises:
        InputError: The values are not three finite numbers, or a standard deviation is not above
            zero.
    """
    numbers = values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else values
    if not isinstance(numbers, list | tuple):
        numbers = ()
    least = 0.0 if name == "std" else -math.inf
    if len(numbers) != 3 or not all(
        isinstance(number, int | float | np.number) and math.isfinite(number) and number > least
        for number in numbers
    ):
        kind = "positive numbers" if name == "std" else "numbers"
        raise InputError(f"`{name}` is {values!r}, expected three {kind}")
    return tuple(float(number) for number in numbers)


def _kwargs(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    if "timm_kwargs" not in metadata:
        return None
    value = _json(path, metadata, "timm_kwargs")
    if not isinstance(value, dict):
        raise InputError(f"{path}: metadata timm_kwargs is {value!r}, expected a JSON object")
    return value


def _channels(path: Path, metadata: Mapping[str, str], name: str) -> tuple[float, ...] | None:
    if name not in metadata:
        return None
    try:
        return check_channels(name, _json(path, metadata, name))
    except InputError as error:
        raise InputError(f"{path}: metadata {error}") from None


def _json(path: Path, metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except ValueError:
        raise InputError(f"{path}: {name} is {metadata[name]!r}, expected JSON") from None
