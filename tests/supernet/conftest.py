from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from autopatch.supernet import TimmSupernet, load_supernet

METADATA = {
    "timm_model": "mobilenetv2_050",
    "timm_kwargs": '{"pad_type": "same"}',
    "mean": "[0.5, 0.5, 0.5]",
    "std": "[0.25, 0.25, 0.25]",
}


@pytest.fixture(scope="session")
def supernet() -> TimmSupernet:
    """A small convolutional backbone with one level for each stride from 4 to 32."""
    return load_supernet("timm:mobilenetv2_050", "random")


@pytest.fixture(scope="session")
def classifier_state() -> dict[str, torch.Tensor]:
    """Tensors of the whole classifier that belongs to the weights files."""
    torch.manual_seed(3)
    return timm.create_model("mobilenetv2_050", pad_type="same").state_dict()


@pytest.fixture
def write_weights(tmp_path: Path, classifier_state: dict[str, torch.Tensor]) -> Callable[..., Path]:
    """Writes a weights file; keywords change or remove (None) tensors and metadata."""

    def write(
        tensors: dict[str, torch.Tensor | None] | None = None, **metadata: str | None
    ) -> Path:
        path = tmp_path / "weights.safetensors"
        state = {**classifier_state, **(tensors or {})}
        save_file(
            {k: v for k, v in state.items() if v is not None},
            path,
            metadata={k: v for k, v in {**METADATA, **metadata}.items() if v is not None},
        )
        return path

    return write


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "weights"
    if not folder.is_dir():
        pytest.skip(f"no real weights at {folder}")
    return folder
