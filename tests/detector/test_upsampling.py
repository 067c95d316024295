from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from autopatch.detector.upsampling import Upsampling

# Height and width of the scores, side of the maps.
SIZES = [
    (56, 56, 224),
    (7, 7, 224),
    (13, 29, 61),
    (40, 24, 16),
    (1, 5, 9),
    (30, 30, 30),
    (3, 3, 1),
]
SIGMAS = (0.3, 1.0, 4.0, 20.0)


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu").square()


def resized(values: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(
        values[:, None], size=(size, size), mode="bilinear", align_corners=False
    ).squeeze(1)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_maps_that_are_not_smoothed(height: int, width: int, size: int) -> None:
    values = scores(3, height, width)
    assert torch.equal(Upsampling(size)(values), resized(values, size))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_smoothed_maps(height: int, width: int, size: int, sigma: float) -> None:
    values = 1000 * scores(2, height, width) + 1e-3
    found = Upsampling(size, sigma)(values)
    exact = resized(values.double(), size).numpy()
    expected = torch.from_numpy(gaussian_filter(exact, (0, sigma, sigma), truncate=4))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_a_constant_stays() -> None:
    found = Upsampling(100, 3.0)(torch.full((1, 11, 11), 5.0))
    torch.testing.assert_close(found, torch.full((1, 100, 100), 5.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("size", [224, 61])
def test_maps_do_not_depend_on_the_batch_or_on_threads(size: int, sigma: float) -> None:
    upsampling = Upsampling(size, sigma)
    before = torch.get_num_threads()
    for height, width in ((56, 56), (20, 13), (7, 7)):
        values = scores(5, height, width)
        expected = torch.cat([upsampling(one) for one in values.split(1)])
        try:
            for threads in (1, 2, 3, 4, 7):
                torch.set_num_threads(threads)
                for batch in (1, 2, 5):
                    found = torch.cat([upsampling(some) for some in values.split(batch)])
                    assert torch.equal(found, expected)
        finally:
            torch.set_num_threads(before)


@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_torch_change_no_result(setting: str) -> None:
    # Each size is new, so that the matrices are made under the setting.
    size = 70 + list(SETTINGS).index(setting)
    for sigma in (0.0, 1.5):
        with SETTINGS[setting]():
            found = Upsampling(size, sigma)(scores(2, 9, 11))
        expected = Upsampling(size, sigma)(scores(2, 9, 11))
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    values = scores(2, 9, 11).requires_grad_()
    Upsampling(size, 1.5)(values).sum().backward()
    assert values.grad is not None


def test_there_is_no_state() -> None:
    upsampling = Upsampling(30, 1.0)
    found = upsampling(scores(1, 8, 8))
    assert upsampling.state_dict() == {}
    assert list(upsampling.buffers()) == list(upsampling.parameters()) == []
    assert torch.equal(copy.deepcopy(upsampling)(scores(1, 8, 8)), found)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_exported(sigma: float, strict: bool) -> None:
    values = scores(5, 8, 8)
    upsampling = Upsampling(40 + strict, sigma)  # sizes that were not used before
    images = torch.export.Dim("images", min=1, max=64)
    program = torch.export.export(
        upsampling, (values[:3],), dynamic_shapes=({0: images},), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in (1, 3, 5):
        torch.testing.assert_close(loaded(values[:count]), upsampling(values[:count]))
    # Nothing of the graph stays behind.
    assert type(upsampling(values)) is torch.Tensor


def test_compiled() -> None:
    upsampling = Upsampling(43, 1.5)
    compiled = torch.compile(upsampling, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(scores(2, 8, 8)), upsampling(scores(2, 8, 8)))


@pytest.mark.parametrize(
    ("size", "sigma", "words"),
    [(0, 1.0, "`size` is 0"), (8, -1.0, "`sigma` is -1.0"), (8, float("nan"), "`sigma` is nan")],
)
def test_wrong_arguments(size: int, sigma: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Upsampling(size, sigma)
