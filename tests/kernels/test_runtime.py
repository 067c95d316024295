from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autopatch import _C
from autopatch.kernels import aggregate_patches, greedy_coreset, nearest_neighbors

Python = Callable[..., subprocess.CompletedProcess[str]]
LEVELS = ("generic", "avx2", "avx512", "avx512_vnni")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- ISA levels --------------------------------------------------------------------------------


ACTIVE_LEVEL = """
try:
    import autopatch.kernels
    from autopatch import _C
    print(_C.detected_isa(), _C.active_isa())
except Exception as error:
    print(f"{type(error).__module__}.{type(error).__name__}: {error}")
"""


@pytest.fixture
def level_in(python: Python) -> Callable[..., str]:
    """The levels detected and active in a new process, or the error, by AUTOPATCH_ISA."""

    def run(**environment: str) -> str:
        result = python(ACTIVE_LEVEL, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.removesuffix("\n")

    return run


@pytest.mark.parametrize("level", LEVELS)
def test_autopatch_isa_lowers_the_level_or_is_an_error(
    level: str, level_in: Callable[..., str]
) -> None:
    detected = _C.detected_isa()
    if LEVELS.index(level) <= LEVELS.index(detected):
        assert level_in(AUTOPATCH_ISA=level).split() == [detected, level]
    else:
        assert level_in(AUTOPATCH_ISA=level) == (
            f"autopatch.errors.InputError: AUTOPATCH_ISA: ISA level '{level}' is not supported "
            f"here: this CPU has {detected}"
        )


def test_without_autopatch_isa_the_highest_level_is_active(
    level_in: Callable[..., str],
) -> None:
    assert level_in().split() == [_C.detected_isa()] * 2


@pytest.mark.parametrize("level", ["", "AVX2"])
def test_unknown_autopatch_isa_is_an_error(level: str, level_in: Callable[..., str]) -> None:
    assert level_in(AUTOPATCH_ISA=level) == (
        f"autopatch.errors.InputError: AUTOPATCH_ISA: ISA level '{level}' is unknown, "
        "expected generic, avx2, avx512 or avx512_vnni"
    )


def test_the_level_can_be_set(isa: str) -> None:
    assert _C.active_isa() == isa
    with pytest.raises(ValueError, match="ISA level 'sse9' is unknown"):
        _C.set_active_isa("sse9")
    assert _C.active_isa() == isa


# --- dependencies ------------------------------------------------------------------------------


def test_kernels_need_torch_and_numpy_alone(python: Python) -> None:
    result = python(
        """
        import sys

        class Blocked:
            names = {
                "PIL", "faiss", "matplotlib", "optuna", "pandas", "pymoo", "rich", "safetensors",
                "scipy", "skimage", "sklearn", "timm", "torchvision", "typer",
            }

            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in self.names:
                    raise ModuleNotFoundError(f"{name} is blocked", name=name)

        assert not Blocked.names & set(sys.modules)
        sys.meta_path.insert(0, Blocked())
        import torch
        from autopatch import kernels

        x = torch.arange(12.0).reshape(6, 2)
        print(kernels.nearest_neighbors(x, x)[1].flatten().tolist())
        print(kernels.greedy_coreset(x, 2, start=0)[0].tolist())
        print(kernels.aggregate_patches([x.reshape(1, 3, 2, 2)], [3]).shape)
        print(*(name for name in sys.modules if name.startswith("autopatch.")))
        """
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == ["[0, 1, 2, 3, 4, 5]", "[0, 5]", "torch.Size([4, 3])"]
    allowed = ("autopatch._C", "autopatch.kernels", "autopatch.errors")
    assert [name for name in lines[3].split() if not name.startswith(allowed)] == []


# --- threads -----------------------------------------------------------------------------------


def test_the_threads_of_torch_are_used(python: Python) -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads cannot be counted here")
    result = python(
        """
        import os
        import torch

        torch.set_num_threads(3)
        from autopatch.kernels import nearest_neighbors

        x = torch.randn(600, 8)
        count = lambda: len(os.listdir("/proc/self/task"))
        start = count()
        nearest_neighbors(x, x, num_threads=1)
        print(count() - start)
        nearest_neighbors(x, x)
        print(count() - start)
        torch.rand(3_000_000).exp()
        print(count() - start)
        nearest_neighbors(x, x, num_threads=5)
        print(count() - start)
        nearest_neighbors(x, x, num_threads=2)
        print(count() - start)
        """
    )
    assert result.returncode == 0, result.stderr
    # The calling thread works too. By default the others are torch's. Another number of them comes
    # from a pool, which keeps them for the next call.
    assert result.stdout.split() == ["0", "2", "2", "6", "6"]


@pytest.mark.parametrize("threads", [0, -1])
def test_num_threads_must_be_positive(threads: int) -> None:
    x = torch.zeros(4, 2)
    for call in (
        lambda: nearest_neighbors(x, x, num_threads=threads),
        lambda: greedy_coreset(x, 1, num_threads=threads),
        lambda: aggregate_patches([x.reshape(1, 2, 2, 2)], [1], num_threads=threads),
    ):
        with pytest.raises(ValueError, match=f"`num_threads` is {threads}, expected at least 1"):
            call()


def test_more_threads_than_work() -> None:
    x = normal(3, 2)
    assert nearest_neighbors(x, x, num_threads=64)[1].flatten().tolist() == [0, 1, 2]


def test_a_limit_on_threads_is_no_error(python: Python) -> None:
    result = python(
        """
        import resource
        import torch

        torch.set_num_threads(1)
        from autopatch.kernels import nearest_neighbors

        x = torch.randn(700, 16, generator=torch.Generator().manual_seed(0))
        nearest_neighbors(x, x, num_threads=2)
        # No room for the stacks of further threads.
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
        _, indices = nearest_neighbors(x, x, num_threads=64)
        assert torch.equal(indices[:, 0], torch.arange(700))
        """
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_pool_works_after_fork(python: Python) -> None:
    # Forks before, between and after calls, in children too, and while another thread is inside.
    result = python(
        """
        import os
        import signal
        import threading
        import torch

        torch.set_num_threads(1)
        from autopatch.kernels import greedy_coreset, nearest_neighbors

        x = torch.randn(700, 16, generator=torch.Generator().manual_seed(0))
        big = torch.randn(30_000, 16)

        def check():
            _, indices = nearest_neighbors(x, x, num_threads=3)
            assert torch.equal(indices[:, 0], torch.arange(700))
            greedy_coreset(big, 5, num_threads=3)

        def in_child(depth):
            child = os.fork()
            if child == 0:
                status = 1
                signal.alarm(30)  # ends a child that waits for workers it does not have
                try:
                    check()
                    check()
                    if depth:
                        in_child(depth - 1)
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0

        in_child(1)
        check()
        in_child(1)
        check()
        stop = threading.Event()

        def keep_busy():
            while not stop.is_set():
                nearest_neighbors(x, x, num_threads=2)

        busy = threading.Thread(target=keep_busy)
        busy.start()
        for _ in range(10):
            in_child(0)
        stop.set()
        busy.join()
        check()
        print("done")
        """
    )
    assert result.stdout == "done\n", result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_does_not_wait_for_the_threads_of_torch(python: Python) -> None:
    # The child's first call is its process's first call with several threads.
    result = python(
        """
        import os
        import signal
        import torch

        torch.set_num_threads(3)
        from autopatch.kernels import nearest_neighbors

        torch.rand(3_000_000).exp()  # starts torch's threads, which a child does not have
        x = torch.randn(700, 16, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                found = nearest_neighbors(x, x)[1][:, 0]
                os._exit(0 if torch.equal(found, torch.arange(700)) else 1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            nearest_neighbors(x, x)
        print("done")
        """
    )
    assert result.stdout == "done\n", result.stderr


def test_concurrent_calls_from_python_threads(isa: str) -> None:
    x = normal(800, 24)
    maps = [normal(4, 24, 14, 14)]
    expected = (
        nearest_neighbors(x, x, 2),
        greedy_coreset(x, 40, start=0),
        aggregate_patches(maps, [3]),
    )
    failures: list[str] = []

    def work(which: int) -> None:
        for _ in range(15):
            if which == 0:
                found = nearest_neighbors(x, x, 2, num_threads=2)
                same = torch.equal(found[0], expected[0][0]) and torch.equal(
                    found[1], expected[0][1]
                )
            elif which == 1:
                found = greedy_coreset(x, 40, start=0, num_threads=3)
                same = torch.equal(found[0], expected[1][0]) and torch.equal(
                    found[1], expected[1][1]
                )
            else:
                same = torch.equal(aggregate_patches(maps, [3], num_threads=2), expected[2])
            if not same:
                failures.append(str(which))

    workers = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


def test_the_pool_is_usable_after_an_error() -> None:
    x = normal(300, 8)
    broken = x.clone()
    broken[7] = torch.nan
    for _ in range(20):
        with pytest.raises(ValueError, match="row 7 of `queries`"):
            nearest_neighbors(broken, x, num_threads=3)
        assert (nearest_neighbors(x, x, num_threads=3)[0] == 0).all()


def test_many_short_calls_with_changing_thread_counts() -> None:
    # A worker may still be on its way to sleep when the next job comes.
    x = normal(60, 4)
    expected = torch.arange(60)
    for i in range(3000):
        _, indices = nearest_neighbors(x, x, num_threads=1 + i % 4)
        assert torch.equal(indices[:, 0], expected)


# --- arrays ------------------------------------------------------------------------------------


class DLPackArray:
    """An array of some other library: nothing but the DLPack protocol."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def test_other_dlpack_arrays_are_taken() -> None:
    x, y = normal(20, 6), normal(30, 6, seed=1)
    found = nearest_neighbors(DLPackArray(x.numpy()), DLPackArray(y.numpy()))
    assert isinstance(found[0], torch.Tensor)
    assert torch.equal(found[1], nearest_neighbors(x, y)[1])
    found = greedy_coreset(DLPackArray(x.numpy()), 5, start=0)
    assert torch.equal(found[0], greedy_coreset(x, 5, start=0)[0])
    maps = normal(1, 6, 5, 4)
    out = np.empty((20, 6), np.float32)
    target = DLPackArray(out)
    assert aggregate_patches([DLPackArray(maps.numpy())], [3], out=target) is target
    np.testing.assert_array_equal(out, aggregate_patches([maps], [3]).numpy())


def awkward_views(array: np.ndarray) -> list[np.ndarray]:
    read_only = array.copy()
    read_only.flags.writeable = False
    return [
        read_only,
        array[::-1].copy()[::-1],  # negative stride
        np.repeat(array, 2, axis=0)[::2],
        np.asfortranarray(array),
        np.frombuffer(array.tobytes(), np.float32).reshape(array.shape),
        field(array),
        field(array)[::-1, ::-1][::-1, ::-1],
        array.astype(">f4"),
        np.frombuffer(bytes(1) + array.tobytes(), np.float32, offset=1).reshape(array.shape),
    ]


def field(array: np.ndarray) -> np.ndarray:
    """The same values as a field of records of five bytes."""
    records = np.zeros(array.shape, [("value", "f4"), ("flag", "u1")])
    records["value"] = array
    return records["value"]


def test_numpy_views_that_torch_cannot_share_are_copied() -> None:
    x, y = normal(20, 6).numpy(), normal(30, 6, seed=1).numpy()
    expected = nearest_neighbors(x, y)
    coreset = greedy_coreset(y, 9, start=0)
    for rows, bank in zip(awkward_views(x), awkward_views(y), strict=True):
        found = nearest_neighbors(rows, bank)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(greedy_coreset(bank, 9, start=0)[0], coreset[0])
        maps = np.lib.stride_tricks.as_strided(
            bank, (1, 6, 5, 6), (0, bank.strides[0] * 5, bank.strides[0], bank.strides[1])
        )
        np.testing.assert_array_equal(
            aggregate_patches([maps], [3]), aggregate_patches([y.reshape(1, 6, 5, 6)], [3])
        )


def test_inputs_are_left_as_they_are(isa: str) -> None:
    x, y = normal(40, 18), normal(30, 18, seed=1)
    maps = normal(2, 5, 6, 6)
    before = x.clone(), y.clone(), maps.clone()
    nearest_neighbors(x, y, 3)
    greedy_coreset(y, 9)
    aggregate_patches([maps], [4])
    assert all(torch.equal(a, b) for a, b in zip(before, (x, y, maps), strict=True))


@pytest.mark.parametrize("array", [[[1.0, 2.0]], None, 3.0, "x"])
def test_other_objects_are_refused(array: Any) -> None:
    with pytest.raises(TypeError, match=r"`features` is a \w+, expected a torch tensor, a NumPy"):
        greedy_coreset(array, 1)


@pytest.mark.parametrize(
    "dtype", ["float64", "int64", "bool", "complex64", ">f8", "U1", "V0", "f4,f4", "O"]
)
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="`features` has dtype"):
        greedy_coreset(np.zeros((3, 2)).astype(dtype), 1)
