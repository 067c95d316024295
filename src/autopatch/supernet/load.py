"""Supernets by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopatch.errors import InputError
from autopatch.progress import Progress
from autopatch.supernet.backbone import ONCE_FOR_ALL
from autopatch.supernet.elastic import OnceForAllMobileNetV3
from autopatch.supernet.elastic_supernet import (
    AUTOPATCH_S,
    ELASTIC,
    ElasticSupernet,
    load_elastic_supernet,
)
from autopatch.supernet.official import (
    file_in_folder,
    official_weights,
    weights_in_file,
)
from autopatch.supernet.once_for_all import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OFA_MBV3,
    OnceForAllSupernet,
    random_network,
)
from autopatch.supernet.timm_features import TIMM
from autopatch.supernet.timm_supernet import TimmSupernet, load_timm_supernet
from autopatch.supernet.weights import check_channels, random_provenance


def load_supernet(
    space: str = AUTOPATCH_S,
    weights: str = "auto",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    timm_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    recalibrate_batch_norm: bool = False,
    progress: Progress | None = None,
) -> TimmSupernet | ElasticSupernet | OnceForAllSupernet:
    """A supernet with its weights.

    Args:
        space: "autopatch_s", "timm:<model name>", "elastic:<model name of timm>", "ofa_mbv3", or
            the name of one of its two networks.
        weights: "random"; of autopatch_s "auto" for those in this package, or a .safetensors file;
            of an elastic network its file; of timm a file or "pretrained" for those of timm's hub;
            of Once-for-All "auto" for the published ones, downloaded once, a folder that holds
            them, or for a single network its file.
        mean: Channel means of the input, for pixels in [0, 1].
        std: Channel deviations.
        timm_kwargs: Arguments of `timm.create_model`.
        seed: Of random weights.
        recalibrate_batch_norm: Whether subnets get the statistics of the good images; Once-for-All
            only.
        progress: Told of a download.

    Raises:
        InputError: The space is unknown, the weights cannot be had or do not fit, or an argument
            does not belong to the space.
    """
    if recalibrate_batch_norm and (space == AUTOPATCH_S or space.startswith((TIMM, ELASTIC))):
        raise InputError(f"{space} has one set of statistics, nothing to recalibrate")
    if space == AUTOPATCH_S or space.startswith(ELASTIC):
        return load_elastic_supernet(
            space, weights, mean=mean, std=std, timm_kwargs=timm_kwargs, seed=seed
        )
    if space.startswith(TIMM):
        if weights == "auto":
            raise InputError(
                f"{space} has no weights of its own: give --weights FILE.safetensors, 'pretrained' "
                "or 'random'"
            )
        return load_timm_supernet(
            space, weights, mean=mean, std=std, timm_kwargs=timm_kwargs, seed=seed
        )
    names = _networks(space)
    if timm_kwargs is not None:
        raise InputError(f"timm_kwargs are given, but {space} is no model of timm")
    networks = {}
    for name, width in names.items():
        if weights == "random":
            networks[name] = random_network(width, seed=seed)
        else:
            networks[name] = _trained(name, width, weights, len(names) == 1, progress)
    if weights == "random":
        provenance = random_provenance(seed)
    elif weights == "auto":
        provenance = "weights of the published Once-for-All networks"
    else:
        provenance = f"weights of {Path(weights).name}"
    if recalibrate_batch_norm:
        provenance += ", batch norm recalibrated on the good images"
    return OnceForAllSupernet(
        space,
        networks,
        mean=check_channels("mean", mean or IMAGENET_MEAN),
        std=check_channels("std", std or IMAGENET_STD),
        provenance=provenance,
        random_features=weights == "random",
        recalibrate_batch_norm=recalibrate_batch_norm,
    )


def weights_files(space: str, weights: str) -> list[Path]:
    """The files that `load_supernet` reads; none for a word such as "random" or "auto".

    Raises:
        InputError: The space is unknown, there is no such file or folder, or the folder does not
            hold what is asked for.
    """
    path = Path(weights)
    if weights in ("auto", "pretrained", "random"):
        return []
    if not weights or not path.exists():
        raise InputError(f"{weights or 'weights'}: no such file or folder, expected weights")
    if path.is_dir() and space in (OFA_MBV3, *ONCE_FOR_ALL.values()):
        return [file_in_folder(path, name) for name in _networks(space)]
    return [path]


def _networks(space: str) -> dict[str, float]:
    """Widths of the Once-for-All networks of a space, by name."""
    names = {name: width for width, name in ONCE_FOR_ALL.items() if space in (OFA_MBV3, name)}
    if not names:
        raise InputError(
            f"search space '{space}' is unknown, expected {AUTOPATCH_S}, timm:<model name>, "
            f"elastic:<model name of timm>, {OFA_MBV3} or {' or '.join(ONCE_FOR_ALL.values())}"
        )
    return names


def _trained(
    name: str,
    width: float,
    weights: str,
    alone: bool,
    progress: Progress | None,
) -> OnceForAllMobileNetV3:
    network = OnceForAllMobileNetV3(width)
    expected = {key: value.shape for key, value in network.state_dict().items()}
    path = Path(weights)
    if weights == "auto":
        state = official_weights(name, expected, progress=progress)
    elif weights == "pretrained":
        raise InputError(f"weights 'pretrained' are those of timm's hub, for {name} give 'auto'")
    elif path.is_dir():
        state = weights_in_file(file_in_folder(path, name), name, expected)
    elif alone:
        state = weights_in_file(path, name, expected)
    else:
        raise InputError(
            f"{path}: no such folder, expected one that holds the weights of both networks; for "
            f"those of one give its name as the space, such as {name}"
        )
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
