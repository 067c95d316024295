"""Weights of the published Once-for-All MobileNetV3 supernets."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from safetensors.torch import save

from autopatch.errors import InputError, one_line
from autopatch.files import cache_folder, require_writable_file, write_bytes_atomically
from autopatch.progress import Progress
from autopatch.supernet import read_safetensors, tensors_sha256

_TIMEOUT_SECONDS = 30
_BYTES_AT_A_TIME = 1 << 20
_TENSORS_SHA256 = "tensors_sha256"
_FOLDER = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets"
_RENAMES = (  # at most one is needed to turn a published name into one used here
    ("bn.", "bn.bn."),
    ("conv.weight", "conv.conv.weight"),
    (".linear.", ".linear.linear."),
    (".bn.bn.", ".bn."),
    (".conv.conv.weight", ".conv.weight"),
    (".linear.linear.", ".linear."),
)


@dataclass(frozen=True)
class OfficialCheckpoint:
    """A published pickle file and its hashes.

    Attributes:
        net_id: Name of the supernet and of the file.
        url: Address of the file.
        git_blob: SHA-1 of `blob SIZE`, a zero byte and the contents.
        sha256: SHA-256 of the contents, None if unknown.
        size: Number of bytes, None if unknown.
    """

    net_id: str
    url: str
    git_blob: str
    sha256: str | None = None
    size: int | None = None


OFFICIAL: dict[str, OfficialCheckpoint] = {
    checkpoint.net_id: checkpoint
    for checkpoint in (
        OfficialCheckpoint(
            net_id="ofa_mbv3_d234_e346_k357_w1.0",
            url=f"{_FOLDER}/ofa_mbv3_d234_e346_k357_w1.0",
            git_blob="55d835981d8acd1053657a951b18887a724ddcbf",
            sha256="a7def36bb4e4c688c16d37eb60d5d34b2e6dcf6438c05bc86dea918fda04c6c7",
            size=31_011_816,
        ),
        OfficialCheckpoint(
            net_id="ofa_mbv3_d234_e346_k357_w1.2",
            url=f"{_FOLDER}/ofa_mbv3_d234_e346_k357_w1.2",
            git_blob="d75a3613bae216091f61fc4b7df77d49cc82ed32",
        ),
    )
}


def official_weights(
    net_id: str,
    expected: Mapping[str, torch.Size],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor]:
    """Weights of a published supernet, downloaded on first use and cached as safetensors.

    Args:
        net_id: A key of `OFFICIAL`.
        expected: Shape of every tensor of the supernet. Tensors are float32, except counts of
            training steps, which are int64.
        cache: Folder for downloads; `cache_folder()` if None.
        progress: Called after every MiB of the download.

    Raises:
        InputError: The weights cannot be downloaded or stored, are not the published ones, or do
            not fit; or the cached file is damaged.
    """
    path = (cache_folder() if cache is None else cache) / f"{net_id}.safetensors"
    if path.exists():
        try:
            return _from_safetensors(path, net_id, expected, ours=True)
        except InputError as error:
            raise InputError(f"{error}; delete this file to have it downloaded again") from error
    official = OFFICIAL[net_id]
    _require_writable(path)
    content = _download(official, progress)
    state = _from_pickle(content, official, expected, official.url)
    _keep(path, state, official)
    return state


def file_in_folder(folder: Path, net_id: str) -> Path:
    """The file `<net_id>.safetensors` in a folder or, if missing, `<net_id>`.

    Raises:
        InputError: The folder has neither.
    """
    for name in (f"{net_id}.safetensors", net_id):
        if (folder / name).exists():
            return folder / name
    raise InputError(
        f"{folder}: no weights in the folder, expected {net_id}.safetensors or {net_id}"
    )


def weights_in_file(
    path: Path, net_id: str, expected: Mapping[str, torch.Size]
) -> dict[str, torch.Tensor]:
    """Reads weights from the published file, or from a .safetensors file with the keys used here or
    the published keys.

    Raises:
        InputError: The file is missing or damaged, does not fit, holds weights of another supernet,
            or is neither a .safetensors file nor the published file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected weights of {net_id}")
    if path.suffix == ".safetensors":
        return _from_safetensors(path, net_id, expected, ours=False)
    try:
        return _from_pickle(path.read_bytes(), OFFICIAL[net_id], expected, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _require_writable(path: Path) -> None:
    """Makes the folder of a file and checks that it can be written, before a download."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_writable_file(path)
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path.parent}: weights cannot be kept there: {reason}; AUTOPATCH_CACHE names another "
            "folder"
        ) from error


def _download(official: OfficialCheckpoint, progress: Progress | None) -> bytes:
    try:
        with urlopen(official.url, timeout=_TIMEOUT_SECONDS) as response:
            length = response.length
            content = bytearray()
            while piece := response.read(_BYTES_AT_A_TIME):
                content += piece
                if progress is not None:
                    total = max(len(content), length or official.size or 0)
                    progress(f"download {official.net_id}", len(content), total)
            if length is not None and len(content) != length:
                raise HTTPException(f"the transfer ended after {len(content)} of {length} bytes")
            return bytes(content)
    except (HTTPException, OSError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is also an open response
        raise InputError(
            f"{official.net_id}: the weights cannot be downloaded from {official.url}: "
            f"{one_line(error)}; give `weights`: a folder with {official.net_id} or "
            f"{official.net_id}.safetensors in it, or 'random' to try the program without them"
        ) from error


def _from_pickle(
    content: bytes, official: OfficialCheckpoint, expected: Mapping[str, torch.Size], source: str
) -> dict[str, torch.Tensor]:
    blob = b"blob %d\0" % len(content) + content
    for what, found, known in (
        ("size", len(content), official.size),
        ("sha256", hashlib.sha256(content).hexdigest(), official.sha256),
        ("git blob", hashlib.sha1(blob, usedforsecurity=False).hexdigest(), official.git_blob),
    ):
        if known is not None and found != known:
            raise InputError(
                f"{source}: {what} is {found}, expected {known} of the published {official.net_id}"
            )
    try:
        # Only this pickle is ever read, because it is published in no other form. The bytes whose
        # hash was checked are unpickled, not a file that may have changed since.
        document = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        state = document["state_dict"]
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise TypeError("not only tensors")
    except (AttributeError, LookupError, RuntimeError, TypeError, pickle.PickleError) as error:
        raise InputError(f"{source}: no tensors under state_dict ({one_line(error)})") from error
    return _fitted(state, expected, source)


def _from_safetensors(
    path: Path, net_id: str, expected: Mapping[str, torch.Size], *, ours: bool
) -> dict[str, torch.Tensor]:
    """The tensors of a file. If `ours`, it was written by `_keep`, and must name its network and
    match its hash; other files need not name their network."""
    metadata, state = read_safetensors(path)
    found = metadata.get("net_id", "an unnamed net" if ours else net_id)
    if found != net_id:
        raise InputError(f"{path}: holds weights of {found}, expected {net_id}")
    fitted = _fitted(state, expected, str(path))
    if ours and metadata.get(_TENSORS_SHA256) != tensors_sha256(fitted):
        raise InputError(f"{path}: its tensors are not those that were downloaded")
    return fitted


def _fitted(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size], source: str
) -> dict[str, torch.Tensor]:
    """Checks the tensors; returns them by the keys used here, in the order of `expected`."""
    names: dict[str, str] = {}
    for name in state:
        key = _own_key(name, expected)
        if key is None:
            raise InputError(f"{source}: {name} is unknown, expected only keys of the supernet")
        if key in names:
            raise InputError(f"{source}: {names[key]} and {name} both stand for {key}")
        names[key] = name
    fitted = {}
    for key, shape in expected.items():
        if key not in names:
            raise InputError(f"{source}: lacks {key}, expected {list(shape)}")
        counts = key.endswith("num_batches_tracked")  # of training steps
        subject = f"{source}: {names[key]}"
        fitted[key] = _fitted_tensor(state[names[key]], shape, subject, counts=counts)
    return fitted


def _own_key(name: str, expected: Mapping[str, torch.Size]) -> str | None:
    name = name.replace(".mobile_inverted_conv.", ".conv.")
    keys = [name, *(name.replace(old, new) for old, new in _RENAMES)]
    return next((key for key in keys if key in expected), None)


def _fitted_tensor(
    tensor: torch.Tensor, shape: torch.Size, subject: str, *, counts: bool
) -> torch.Tensor:
    if tensor.shape != shape:
        raise InputError(f"{subject} has shape {list(tensor.shape)}, expected {list(shape)}")
    floats = tensor.is_floating_point()
    integers = not (floats or tensor.is_complex() or tensor.dtype == torch.bool)
    dtype = torch.int64 if counts else torch.float32
    if not (integers if counts else floats):
        raise InputError(f"{subject} holds {tensor.dtype}, expected {dtype}")
    # Copied: tensors of a checkpoint may share memory, which safetensors does not allow.
    result = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(result).all()):
        raise InputError(f"{subject} holds NaN or infinity")
    return result


def _keep(path: Path, state: Mapping[str, torch.Tensor], official: OfficialCheckpoint) -> None:
    origin = {
        "net_id": official.net_id,
        "source": official.url,
        "git_blob": official.git_blob,
        _TENSORS_SHA256: tensors_sha256(state),
    }
    write_bytes_atomically(path, save(dict(state), metadata=origin))
