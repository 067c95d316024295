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

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg

from autopatch.errors import InputError, one_line
from autopatch.files import StrPath


@dataclass(frozen=True)
class Weights:
    """Contents of a weights file.

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


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the name, dtype, shape and values of each tensor, as 64 hexadecimal digits.

    The order of the tensors, their memory layout and their device do not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def random_provenance(seed: int) -> str:
    """One line that says where random weights come from."""
    return f"RANDOM features: weights drawn with seed {seed}, trained on nothing"


def read_weights(path: StrPath) -> Weights:
    """Reads a .safetensors file with its metadata.

    Raises:
        InputError: The file is missing or damaged, or its metadata is malformed.
    """
    path = Path(path)
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


def read_safetensors(path: StrPath) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of an existing file.

    Raises:
        InputError: It is damaged or of another format.
    """
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
        std: Channel deviations.
        provenance: One line that says where the weights come from.
        is_random: Whether they are random.
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
    """How to use weights: normalization, seed, and options of the family.

    Attributes:
        mean: Channel means of the input, for pixels in [0, 1]; None for those of the weights.
        std: Channel deviations; None for those of the weights.
        seed: Seed of random weights.
        own: Options of the family by name; None and False are dropped.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    seed: int = 0
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: v for name, v in self.own.items() if v is not None and v is not False}
        object.__setattr__(self, "own", given)

    def require(self, space: str, *known: str) -> None:
        """Raises InputError if there is an option that the family of a space does not know."""
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
    if not weights or not Path(weights).exists():
        raise InputError(f"{weights or 'weights'}: no such file or folder, expected weights")
    return [Path(weights)]


def find_source(space: str, weights: str, options: LoadOptions) -> TimmSource:
    """Finds the weights of a timm model, and reads their file if there is one.

    Args:
        space: A prefix, a colon and the name of the model.
        weights: A .safetensors file, "pretrained" for those of timm's hub, or "random". A file
            needs `timm_kwargs`, `mean` and `std` in its metadata, unless they are given; given
            values override the metadata.
        options: Mean, deviations and, as the only option of the family, `timm_kwargs`.

    Raises:
        InputError: An option or the model is unknown, the file cannot be read or is of another
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
    except RuntimeError as error:  # the name ends with a tag that the model does not have
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
    """Loads the tensors of a file. Those that the model lacks, such as a classifier's, are ignored.

    Keys are those of the whole timm model, or those of its feature extractor: with the prefix
    "model.", or with the first two names joined by an underscore.

    Raises:
        InputError: A tensor of the model is missing, or has another shape, or integers for floats.
            The message names the first one.
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
