"""Backbone weights in safetensors files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from autopatch.errors import InputError, one_line


@dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    Attributes:
        path: The file.
        state: Tensors by key; floating-point ones as float32.
        timm_model: Name of the timm model, None if the file does not say.
        timm_kwargs: Arguments of the timm model, None if the file does not say.
        mean: Channel means, None if the file does not say.
        std: Channel deviations, None if the file does not say.
    """

    path: Path
    state: dict[str, torch.Tensor]
    timm_model: str | None
    timm_kwargs: dict[str, Any] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def read_weights(path: Path) -> Weights:
    """Reads a .safetensors file with its metadata.

    Raises:
        InputError: The file is missing or damaged, or its metadata cannot be understood.
    """
    if not path.is_file():
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


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of an existing file.

    Raises:
        InputError: It is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: truncated or not a safetensors file ({one_line(error)})"
        ) from error


def load_into(model: torch.nn.Module, weights: Weights) -> None:
    """Loads the tensors of a file; those the model lacks, such as a classifier's, are passed over.

    A key may be that of the whole timm model or that of its feature extractor, which prefixes
    "model." or joins the first two names by an underscore.

    Raises:
        InputError: A key of the model is missing, or has another shape or integers for floats; the
            first is named.
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
    """Means or deviations of the three channels of the input, as floats.

    Raises:
        InputError: They are not three finite numbers, or a deviation is not above zero.
    """
    numbers = values if isinstance(values, list | tuple) else ()
    least = 0.0 if name == "std" else -math.inf
    if len(numbers) != 3 or not all(
        isinstance(number, int | float) and math.isfinite(number) and number > least
        for number in numbers
    ):
        kind = "positive numbers" if name == "std" else "numbers"
        raise InputError(f"{name} is {values!r}, expected three {kind}")
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
