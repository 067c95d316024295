"""The commands on a simulated GPU: the devices of tensors are checked, but values are computed on
the CPU."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autopatch import _C
from autopatch.data import draw_textures
from autopatch.detector import Architecture, Detector, Head, Input
from autopatch.kernels import nearest
from autopatch.search import load_trials
from autopatch.search.bootstrap import RESAMPLES
from autopatch.supernet import Backbone, load_supernet


class OnGPU(torch.Tensor):
    """`values` as a tensor on the simulated GPU."""

    values: torch.Tensor
    gpu: torch.device

    @staticmethod
    def __new__(cls, values, gpu):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="meta",  # for CUDA torch would look for a driver
        )
        self.values, self.gpu = values, gpu
        return self

    def __repr__(self):
        return f"OnGPU({self.values}, {self.gpu})"

    @property
    def device(self):
        return self.gpu

    @property
    def is_cuda(self):
        return True

    @property
    def is_meta(self):
        return False

    def to(self, *args, **kwargs):
        if torch.device("meta") in args:  # where torch takes it to be already
            return self.values.to("meta")
        return super().to(*args, **kwargs)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force):
        return self.cpu().numpy()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} of {args} outside of PretendedGPUs")


class PretendedGPUs(TorchDispatchMode):
    """Runs GPU operations on the CPU and requires, as a GPU does, that all tensors of an operation
    are on the GPU. Lists the bytes of each copy to and from the GPU."""

    def __init__(self):
        super().__init__()
        self.up: list[int] = []
        self.down: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.is_inference_mode_enabled():  # which leaves composite operations whole
            with self:
                result = function.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        asked = (kwargs or {}).get("device")
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        homes = [x.device for x in tensors]
        copies = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
        if function in copies:
            home = homes[0] if asked is None else torch.device(asked)
            self._count(tensors[-1], home)
        elif function == torch.ops.aten._local_scalar_dense.default:
            home = torch.device("cpu")
            self._count(tensors[0], home)
        elif asked is not None:
            home = torch.device(asked)
        else:
            gpus = {device for device in homes if device.type == "cuda"}
            home = gpus.pop() if gpus else torch.device("cpu")
            # A number on the CPU goes with any device.
            strangers = [x for x in tensors if x.device != home and x.ndim > 0]
            assert home.type != "cuda" or not strangers, f"{function} on {home} of " + ", ".join(
                f"{list(x.shape)} on {x.device}" for x in strangers
            )
        if asked is not None:
            on_cpu = "meta" if home.type == "meta" else "cpu"
            kwargs = {**kwargs, "device": torch.device(on_cpu)}
        inner, named = pytree.tree_map_only(OnGPU, lambda x: x.values, (args, kwargs or {}))
        result = function(*inner, **named)
        if home.type != "cuda":
            return result
        assert home.index is not None, f"{function} on whichever GPU is the current one"
        same = {id(x.values): x for x in tensors if isinstance(x, OnGPU)}

        def on_gpu(value: torch.Tensor) -> torch.Tensor:  # changed in place, or new
            return same[id(value)] if id(value) in same else OnGPU(value, home)

        return pytree.tree_map_only(torch.Tensor, on_gpu, result)

    def _count(self, tensor: torch.Tensor, to: torch.device) -> None:
        size = tensor.numel() * tensor.element_size()
        if to.type == "cuda" != tensor.device.type:
            self.up.append(size)
        elif tensor.device.type == "cuda" != to.type:
            self.down.append(size)


@pytest.fixture
def gpus(monkeypatch):
    """Two simulated GPUs, active inside `with`."""
    monkeypatch.setattr(_C, "cuda_built", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(nearest, "make_cuda_screen", lambda bank: None)
    return PretendedGPUs()


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """As few images as a search needs, because the simulated GPU is slow."""
    root = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(root, seed=1, image_size=64, train=10, test_good=2, per_type=3)


def test_tensors_of_other_devices_are_refused(gpus):
    with gpus:
        first, second = (torch.ones(3, device=f"cuda:{i}") for i in range(2))
        assert (first + 1).device == torch.device("cuda:0")
        assert (first + first).tolist() == [2, 2, 2]
        for other in (second, torch.ones(3)):
            with pytest.raises(AssertionError, match=r"add.Tensor on cuda:\d of \[3\] on c"):
                first + other
    assert gpus.up == []
    assert gpus.down == [12]


def test_a_detector_that_moves_makes_its_screen_anew(textures, gpus, monkeypatch):
    name = "timm:test_efficientnet"
    detector = Detector.fit(
        textures / "train" / "good",
        supernet=load_supernet(name, "random"),
        architecture=Architecture(Input(64), Backbone(name, (1,)), Head((3,), 60)),
    )
    images = sorted((textures / "test").rglob("*.png"))
    expected = detector.predict(images)
    screened = []

    def make_screen(bank):
        screened.append(bank.device)

    monkeypatch.setattr(nearest, "make_cuda_screen", make_screen)
    with gpus:
        for device in ("cuda:1", "cuda:1", "cpu", "cuda:0", "cpu"):
            assert detector.to(device) is detector
            assert detector.device == torch.device(device)
            found = detector.predict(images)
            for tensor in (found.anomaly_map, found.pred_score, found.pred_label, found.pred_mask):
                assert tensor.device == torch.device(device)
            torch.testing.assert_close(
                found.anomaly_map.cpu(), expected.anomaly_map, rtol=1e-5, atol=1e-9
            )
            assert [image.pred_label for image in found] == expected.pred_label.tolist()
    # Once a device, not where it is already.
    assert screened == [torch.device("cuda:1"), torch.device("cuda:0")]
    assert detector.memory.screen is not None
    assert torch.equal(detector.predict(images).anomaly_map, expected.anomaly_map)


def test_the_whole_job_on_the_second_gpu(autopatch, search_arguments, textures, tmp_path, gpus):
    def run(device):
        folder = tmp_path / device
        detector = folder / "detector.safetensors"
        for command in (
            [*search_arguments[:-1], folder, "--evaluations", "4"],
            ["fit", folder],
            ["evaluate", folder],
            ["predict", detector, textures / "test", "--out", folder / "predicted"],
        ):
            gpus.down.clear()
            code, _, err = autopatch(*command, "--device", device)
            assert code == 0, err
            if command[0] == "search":  # from a search come numbers alone
                assert max(gpus.down, default=0) <= 8 * RESAMPLES
        return load_trials(folder / "study.db"), load_file(detector)

    expected_trials, expected_detector = run("cpu")
    assert gpus.down == gpus.up == []
    with gpus:
        trials, detector = run("cuda:1")
    assert len(gpus.up) > 0
    assert [t.architecture for t in trials] == [t.architecture for t in expected_trials]
    for trial, expected in zip(trials, expected_trials, strict=True):
        # A GPU takes more images at a time, which changes products of matrices by rounding.
        assert trial.evaluation.values == pytest.approx(expected.evaluation.values, abs=1e-4)
        assert trial.evaluation.metrics == pytest.approx(expected.evaluation.metrics, abs=1e-3)
    assert detector.keys() == expected_detector.keys()
    for name, tensor in expected_detector.items():
        torch.testing.assert_close(detector[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
