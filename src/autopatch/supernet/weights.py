"""Backbone weights in safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from autopatch.errors import InputError


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
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file ({error})") from error
    return Weights(
        path=path,
        state={k: v.float() if v.is_floating_point() else v for k, v in state.items()},
        timm_model=metadata.get("timm_model"),
        timm_kwargs=_kwargs(path, metadata),
        mean=_channels(path, metadata, "mean"),
        std=_channels(path, metadata, "std"),
    )


def load_into(model: torch.nn.Module, weights: Weights) -> None:
    """Loads the tensors of a file; those the model lacks, such as a classifier's, are passed over.

    Raises:
        InputError: A key of the model is missing or has another shape; the first is named.
    """
    own = model.state_dict()
    for key, tensor in own.items():
        if key not in weights.state:
            raise InputError(f"{weights.path}: lacks {key}, expected {list(tensor.shape)}")
        found = weights.state[key]
        if found.shape != tensor.shape:
            raise InputError(
                f"{weights.path}: {key} has shape {list(found.shape)}, expected "
                f"{list(tensor.shape)}"
            )
    model.load_state_dict({key: weights.state[key] for key in own})


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
    value = _json(path, metadata, name)
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    if not numbers or len(value) != 3:
        raise InputError(f"{path}: metadata {name} is {value!r}, expected three numbers")
    return tuple(float(item) for item in value)


def _json(path: Path, metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except ValueError:
        raise InputError(f"{path}: metadata {name} is {metadata[name]!r}, expected JSON") from None
